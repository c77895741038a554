// Fetches what a lane's products need, in the order in which they need it.
//
// Per group of at most `cap` elements: initial residues, exponent strings, then second operands,
// each as soon as the engine has freed the room. Table rows are the same for all lanes: the loader
// says when it has room for the next one, and residue_table_rows fetches it for the cluster. With a
// modulus per element, M and ONE of each precede its residue (see residue_sequencer), and before
// them what is to be checked: the block's header and N's lowest row. Every
// request carries the store and row its data goes to and the event its last row announces. Addresses
// follow from the command's public fields alone (PROD: also from its index, which is public).
//
// Length: over 200 lines; the groups' loop is one state machine.
`default_nettype none

module residue_loader
  import residue_engine_pkg::*;
  import residue_abi_pkg::*;
#(
  parameter int unsigned RowBits      = 16,
  parameter int unsigned MaxGroup     = 128
) (
  input  wire  logic               clk,
  input  wire  logic               rst_n,
  input  wire  logic               start_i,
  input  wire  logic               abort_i,
  input  wire  job_t               job_i,
  input  wire  lane_job_t          share_i,
  output       logic               busy_o,
  // Room freed by the engine
  input  wire  logic               retire_i,
  input  wire  logic               retire_round_i,
  input  wire  logic               retire_group_i,
  // Table rows: wanted, and asked for
  output       logic               row_want_o,
  input  wire  logic               row_taken_i,
  // Index words arriving (PROD)
  input  wire  logic               s_index_valid,
  input  wire  logic               s_index_last,
  input  wire  logic [127:0]       s_index_data,
  // Read requests
  output       logic               m_req_valid,
  input  wire  logic               m_req_ready,
  output       logic [63:0]        m_req_addr,
  output       logic [15:0]        m_req_rows,
  output       logic [2:0]         m_req_store,   // 0 accumulators, 1 tables, 2 exponents, 3 moduli,
                                                  // 4 index, 7 to be checked
  output       logic [RowBits-1:0] m_req_row,
  output       logic [2:0]         m_req_event    // 1 initial, 2 exponent, 4 operand, 5 header, 6 N
);

  localparam int unsigned IndexRows = MaxGroup / 4 + 1;
  localparam int unsigned IndexBits = $clog2(4 * IndexRows);

  typedef enum logic [3:0] {
    StIdle, StGroup, StInit, StExpWait, StExp, StTable, StOperand,
    StIndex, StIndexWait, StGatherRead, StGatherScale, StGather, StNext
  } state_e;
  state_e state_q, state_d;

  // What is fetched for the initial residue of an element
  typedef enum logic [2:0] {
    PartHeader, PartN, PartM, PartOneA, PartOneTable, PartResidue
  } part_e;
  part_e part_q;

  wire logic is_pow   = job_i.opcode == OpPow;
  wire logic is_fixed = (job_i.opcode == OpPowFixed) || (job_i.opcode == OpMultiPow);
  wire logic is_table = job_i.opcode == OpTable;
  wire logic is_prod  = job_i.opcode == OpProd;
  wire logic is_mul   = job_i.opcode == OpMul;
  wire logic is_self  = job_i.opcode == OpSelftest;
  wire logic has_init = !is_prod && !is_self && (!is_fixed || job_i.init_from_a);
  wire logic one_group = is_pow || is_table;   // the table store holds one group at a time

  logic [31:0] left_q;
  logic [8:0]  n_q;
  logic [8:0]  entry_q;        // element of the group
  logic [31:0] round_q;
  logic        buffer_q;
  logic [1:0]  groups_q;       // groups loaded or being loaded, not retired
  logic [1:0]  rows_q;         // table rows likewise
  logic [5:0]  operands_q;     // operands likewise
  logic [4:0]  slot_q;
  logic [63:0] a_q, b_q, e_q;  // next addresses
  logic [31:0] element_q;      // elements of the command before this group
  logic [33:0] index_first_q;  // PROD: linear index of this round's first element
  logic [RowBits-1:0] row_q, slot_row_q;
  logic [RowBits-1:0] context_row_q;   // a modulus per element: rows * (1 + element of the group)

  wire logic [63:0] step_a = {44'd0, job_i.stride_a, 4'd0};
  wire logic [63:0] step_b = {44'd0, job_i.stride_b, 4'd0};
  wire logic [63:0] step_e = {44'd0, job_i.stride_e, 4'd0};
  wire logic [RowBits-1:0] rows = RowBits'(job_i.rows);
  wire logic [RowBits-1:0] first_row = rows * RowBits'(TabFirst);

  wire logic taken = m_req_valid && m_req_ready;
  wire part_e first_part = job_i.per_element ? PartHeader : PartResidue;
  wire logic init_taken = taken && (state_q == StInit) && (part_q == PartResidue);
  wire logic last_element = (entry_q + 9'd1 == n_q);
  wire logic last_round = (round_q + 32'd1 == job_i.length);

  // ---- Index store (PROD) ------------------------------------------------------------------------
  logic [127:0] index_q [IndexRows];
  logic [$clog2(IndexRows)-1:0] index_row_q;
  logic [IndexBits-1:0] index_at_q;
  logic [31:0] gather_q;
  logic [63:0] gather_addr_q;

  always_ff @(posedge clk) begin
    if (s_index_valid) index_q[index_row_q] <= s_index_data;
    if (state_q == StIndex) index_row_q <= '0;
    else if (s_index_valid) index_row_q <= index_row_q + 1'b1;
    if (state_q == StGatherRead)
      gather_q <= 32'(index_q[index_at_q[IndexBits-1:2]] >> {index_at_q[1:0], 5'd0});
    if (state_q == StGatherScale)
      gather_addr_q <= share_i.src_a + {12'd0, 52'(gather_q) * 52'({job_i.stride_a, 4'd0})};
  end

  // ---- State machine -----------------------------------------------------------------------------
  always_comb begin
    state_d = state_q;
    unique case (state_q)
      StIdle:  if (start_i && !is_self) state_d = StGroup;
      StGroup:
        if (left_q == '0) state_d = StIdle;
        else if (groups_q == '0 || (groups_q == 2'd1 && !one_group))
          state_d = has_init ? StInit : (is_fixed ? StExpWait : StIndex);
      StInit:
        if (init_taken && last_element)
          state_d = is_mul ? StOperand : (is_pow || is_fixed) ? StExpWait : StNext;
      // The exponent store holds one group: wait until the group before has retired.
      StExpWait: if (groups_q == 2'd1) state_d = StExp;
      StExp:     if (taken && last_element) state_d = is_fixed ? StTable : StNext;
      StTable:   if (row_taken_i && last_round) state_d = StNext;
      StOperand: if (taken && last_element) state_d = StNext;
      StIndex:   if (taken) state_d = StIndexWait;
      StIndexWait: if (s_index_valid && s_index_last) state_d = StGatherRead;
      StGatherRead:  state_d = StGatherScale;
      StGatherScale: state_d = StGather;
      StGather:
        if (taken) state_d = !last_element ? StGatherRead : (last_round ? StNext : StIndex);
      StNext:  state_d = StGroup;
      default: state_d = StIdle;
    endcase
    if (abort_i && !(m_req_valid && !m_req_ready)) state_d = StIdle;
  end

  wire logic operand_room = (operands_q < 6'(OperandSlots));
  // Rows that hold n index words from index_first_q on.
  wire logic [8:0] index_rows = (9'(index_first_q[1:0]) + n_q + 9'd3) >> 2;

  always_comb begin
    m_req_valid = 1'b0;
    m_req_addr  = a_q;
    m_req_rows  = 16'(job_i.rows);
    m_req_store = 3'd0;
    m_req_row   = row_q;
    m_req_event = 3'd0;
    unique case (state_q)
      StInit: begin
        m_req_valid = 1'b1;
        m_req_store = one_group ? 3'd1 : 3'd0;
        if (part_q == PartResidue) m_req_event = 3'd1;
        else                       m_req_addr  = b_q + part_offset;
        unique case (part_q)
          PartHeader, PartN: begin
            m_req_store = 3'd7;
            m_req_rows  = 16'd1;
            m_req_event = (part_q == PartHeader) ? 3'd5 : 3'd6;
          end
          PartM: begin
            m_req_store = 3'd3;
            m_req_row   = context_row_q;
          end
          PartOneA: begin
            m_req_store = 3'd0;
            m_req_row   = context_row_q + rows * RowBits'(job_i.cap);
          end
          PartOneTable: m_req_row = row_q - rows;  // entry 0 of the element's table
          default: ;
        endcase
      end
      StExp: begin
        m_req_valid = 1'b1;
        m_req_addr  = e_q;
        m_req_rows  = 16'(job_i.exp_rows);
        m_req_store = 3'd2;
        m_req_event = 3'd2;
      end
      StOperand: begin
        m_req_valid = operand_room;
        m_req_addr  = b_q;
        m_req_store = 3'd1;
        m_req_row   = slot_row_q;
        m_req_event = 3'd4;
      end
      StIndex: begin
        m_req_valid = 1'b1;
        m_req_addr  = share_i.exponents + {28'd0, index_first_q[33:2], 4'd0};
        m_req_rows  = 16'(index_rows);
        m_req_store = 3'd4;
        m_req_row   = '0;
      end
      StGather: begin
        m_req_valid = operand_room;
        m_req_addr  = gather_addr_q;
        m_req_store = 3'd1;
        m_req_row   = slot_row_q;
        m_req_event = 3'd4;
      end
      default: ;
    endcase
  end

  // Of a part from the start of the element's modulus block
  logic [63:0] part_offset;
  always_comb begin
    unique case (part_q)
      PartN:                  part_offset = 64'(8 * ModulusHeaderWords) +
                                            (64'(ModulusVectorN * job_i.rows) << 4);
      PartM:                  part_offset = 64'(8 * ModulusHeaderWords);
      PartOneA, PartOneTable: part_offset = 64'(8 * ModulusHeaderWords) +
                                            (64'(ModulusVectorOne * job_i.rows) << 4);
      default:                part_offset = '0;
    endcase
  end

  wire logic operand_taken = taken && (m_req_event == 3'd4);
  assign row_want_o = (state_q == StTable) && (rows_q < 2'd2);

  always_ff @(posedge clk) begin
    if (!rst_n) state_q <= StIdle;
    else        state_q <= state_d;

    if (state_q == StIdle) begin
      left_q     <= share_i.count;
      element_q  <= share_i.first;
      buffer_q   <= 1'b0;
      groups_q   <= '0;
      rows_q     <= '0;
      operands_q <= '0;
      slot_q     <= '0;
      slot_row_q <= first_row;
      a_q        <= share_i.src_a;
      b_q        <= share_i.src_b;
      e_q        <= share_i.exponents;
    end else begin
      groups_q   <= groups_q + 2'(state_q == StGroup && state_d != StGroup && state_d != StIdle)
                             - 2'(retire_group_i);
      rows_q     <= rows_q + 2'(row_taken_i) - 2'(retire_round_i && is_fixed);
      operands_q <= operands_q + 6'(operand_taken) - 6'(retire_i && (is_mul || is_prod));
      if (operand_taken) begin
        slot_q     <= slot_q + 5'd1;
        slot_row_q <= (slot_q == 5'(OperandSlots - 1)) ? first_row : slot_row_q + rows;
      end
      if (init_taken) a_q <= a_q + step_a;
      if (taken && state_q == StExp) e_q <= e_q + step_e;
      if ((taken && state_q == StOperand) || (init_taken && job_i.per_element)) b_q <= b_q + step_b;
      if (state_q == StNext) begin
        left_q    <= left_q - 32'(n_q);
        element_q <= element_q + 32'(n_q);
        buffer_q  <= !buffer_q;
      end
    end

    if (state_q == StGroup) begin
      n_q           <= (left_q < 32'(job_i.cap)) ? left_q[8:0] : job_i.cap;
      index_first_q <= {2'd0, element_q};
      round_q       <= '0;
    end else if (row_taken_i || (taken && state_q == StGather && last_element)) begin
      round_q       <= round_q + 32'd1;
      index_first_q <= index_first_q + {2'd0, job_i.count};
    end

    if (state_q != StInit) begin
      part_q        <= first_part;
      context_row_q <= rows;
    end else if (init_taken) begin
      part_q        <= first_part;
      context_row_q <= context_row_q + rows;
    end else if (taken) begin
      part_q <= part_e'(part_q + 3'd1);
    end

    // Entry counter and destination row start anew with every run of requests.
    if (state_q == StGroup || state_q == StExpWait || state_q == StIndex) begin
      entry_q <= '0;
      unique case (state_q)
        StGroup:
          row_q <= one_group ? first_row + (is_pow ? rows : '0)
                             : rows * (buffer_q ? RowBits'(job_i.cap) + RowBits'(1) : RowBits'(1));
        default:   row_q <= '0;
      endcase
      index_at_q <= {{(IndexBits - 2){1'b0}}, index_first_q[1:0]};
    end else if (taken && (state_q != StInit || init_taken)) begin
      entry_q    <= last_element && (state_q == StInit) ? '0 : entry_q + 9'd1;
      index_at_q <= index_at_q + 1'b1;
      unique case (state_q)
        StInit:  row_q <= row_q + (is_pow ? rows << PowWindow : rows);
        StExp:   row_q <= row_q + RowBits'(job_i.exp_rows);
        default: row_q <= row_q + rows;
      endcase
    end
  end

  assign busy_o = (state_q != StIdle);

endmodule

`default_nettype wire
