// Fetches what a lane's products need, in the order in which they need it.
//
// Per group of at most `cap` elements: initial residues, exponent strings, then second operands,
// each as soon as the engine has freed the room. Table rows are the same for all lanes: the loader
// says when it has room for the next one, and residue_table_rows fetches it for the cluster. With a
// modulus per element, M and ONE of each precede its residue (see residue_sequencer), and before
// them what is to be checked: the block's header and N's lowest row. Every
// request carries the store and row its data goes to and the event its last row announces. Addresses
// follow from the command's public fields alone (PROD: also from its index, which is public).
// A request stands in a register until it is taken: at most one every two cycles, which cuts every
// path between the state here and the bus. What a request is made of (base, offset, step, ...) stands
// in registers one cycle behind the state, so none is made in a state's first cycle.
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
  state_e state_q, state_d, before_q;

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
  logic [31:0] rounds_left_q;  // with this one
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

  wire logic [RowBits-1:0] rows = RowBits'(job_i.rows);
  wire logic [RowBits-1:0] first_row = RowBits'(f_residue_rows(2'(TabFirst), job_i.rows));
  logic [RowBits-1:0] cap_rows_q;      // of a group's residues
  logic [RowBits-1:0] group_row_q;     // where the next group's initial residues begin

  // Of the request that is made next, one cycle behind the state
  logic               ask_q;
  logic [63:0]        base_q;
  logic [47:0]        offset_q;        // from there, in units of 16 bytes
  logic [15:0]        step_q;          // from this base to the next one, likewise
  logic [RowBits-1:0] row_step_q;
  logic               last_element_q;
  wire logic taken = ask_q && (state_q == before_q) && !m_req_valid;
  wire part_e first_part = job_i.per_element ? PartHeader : PartResidue;
  wire logic init_taken = taken && (state_q == StInit) && (part_q == PartResidue);
  wire logic last_round = (rounds_left_q == 32'd1);

  // ---- Index store (PROD) ------------------------------------------------------------------------
  logic [127:0] index_q [IndexRows];
  logic [$clog2(IndexRows)-1:0] index_row_q;
  logic [IndexBits-1:0] index_at_q;
  logic [31:0] gather_q;
  logic [1:0][31:0] raw_q;     // products of the stride with the halves of a word

  always_ff @(posedge clk) begin
    if (s_index_valid) index_q[index_row_q] <= s_index_data;
    if (state_q == StIndex) index_row_q <= '0;
    else if (s_index_valid) index_row_q <= index_row_q + 1'b1;
    if (state_q == StGatherRead)
      gather_q <= 32'(index_q[index_at_q[IndexBits-1:2]] >> {index_at_q[1:0], 5'd0});
    for (int unsigned i = 0; i < 2; i++) raw_q[i] <= gather_q[16*i +: 16] * job_i.stride_a;
  end

  // ---- State machine -----------------------------------------------------------------------------
  wire logic group_begins = (state_q == StGroup) && !abort_i && (left_q != '0) &&
                            (groups_q == '0 || (groups_q == 2'd1 && !one_group));

  always_comb begin
    state_d = state_q;
    unique case (state_q)
      StIdle:  if (start_i && !is_self) state_d = StGroup;
      StGroup:
        if (left_q == '0) state_d = StIdle;
        else if (group_begins)
          state_d = has_init ? StInit : (is_fixed ? StExpWait : StIndex);
      StInit:
        if (init_taken && last_element_q)
          state_d = is_mul ? StOperand : (is_pow || is_fixed) ? StExpWait : StNext;
      // The exponent store holds one group: wait until the group before has retired.
      StExpWait: if (groups_q == 2'd1) state_d = StExp;
      StExp:     if (taken && last_element_q) state_d = is_fixed ? StTable : StNext;
      StTable:   if (row_taken_i && last_round) state_d = StNext;
      StOperand: if (taken && last_element_q) state_d = StNext;
      StIndex:   if (taken) state_d = StIndexWait;
      StIndexWait: if (s_index_valid && s_index_last) state_d = StGatherRead;
      StGatherRead:  state_d = StGatherScale;
      StGatherScale: state_d = StGather;
      StGather:
        if (taken) state_d = !last_element_q ? StGatherRead : (last_round ? StNext : StIndex);
      StNext:  state_d = StGroup;
      default: state_d = StIdle;
    endcase
    if (abort_i) state_d = StIdle;
  end

  wire logic operand_room = (operands_q < 6'(OperandSlots));
  // Rows that hold n index words from index_first_q on.
  wire logic [8:0] index_rows = (9'(index_first_q[1:0]) + n_q + 9'd3) >> 2;

  // ---- Requests ----------------------------------------------------------------------------------
  // Of a part from the start of the element's modulus block, in units of 16 bytes
  logic [11:0] part_offset;
  always_comb begin
    unique case (part_q)
      PartHeader, PartResidue: part_offset = '0;
      PartM:                   part_offset = 12'(ModulusHeaderWords / 2);
      default:                 part_offset = 12'(ModulusHeaderWords / 2) +
          12'(f_residue_rows((part_q == PartN) ? 2'(ModulusVectorN) : 2'(ModulusVectorOne),
                             job_i.rows));
    endcase
  end

  always_ff @(posedge clk) begin
    before_q       <= state_q;
    last_element_q <= (entry_q + 9'd1 == n_q);
    ask_q          <= (state_q == StInit) || (state_q == StExp) || (state_q == StIndex) ||
                      ((state_q == StOperand || state_q == StGather) && operand_room);
    unique case (state_q)
      StInit:         base_q <= (part_q == PartResidue) ? a_q : b_q;
      StExp, StIndex: base_q <= e_q;
      StOperand:      base_q <= b_q;
      default:        base_q <= a_q;
    endcase
    unique case (state_q)
      StGather: offset_q <= {raw_q[1], 16'd0} + 48'(raw_q[0]);
      StIndex:  offset_q <= 48'(index_first_q[33:2]);
      default:  offset_q <= 48'(part_offset);
    endcase
    unique case (state_q)
      StInit:  step_q <= (part_q == PartResidue) ? job_i.stride_a : job_i.stride_b;
      StExp:   step_q <= job_i.stride_e;
      default: step_q <= job_i.stride_b;
    endcase
    row_step_q <= (state_q == StExp) ? RowBits'(job_i.exp_rows)
                                     : is_pow ? rows << PowWindow : rows;
  end
  wire logic [63:0] next_base = base_q + {44'd0, step_q, 4'd0};

  logic [15:0]        ask_rows;
  logic [2:0]         ask_store, ask_event;
  logic [RowBits-1:0] ask_row, ask_row_offset;
  always_comb begin
    ask_rows       = 16'(job_i.rows);
    ask_store      = 3'd1;
    ask_event      = 3'd4;
    ask_row        = row_q;
    ask_row_offset = '0;
    unique case (state_q)
      StInit: begin
        ask_store = one_group ? 3'd1 : 3'd0;
        ask_event = 3'd0;
        unique case (part_q)
          PartHeader, PartN: begin
            ask_store = 3'd7;
            ask_rows  = 16'd1;
            ask_event = (part_q == PartHeader) ? 3'd5 : 3'd6;
          end
          PartM: begin
            ask_store = 3'd3;
            ask_row   = context_row_q;
          end
          PartOneA: begin
            ask_store      = 3'd0;
            ask_row        = context_row_q;
            ask_row_offset = cap_rows_q;
          end
          PartOneTable: ;
          default: begin
            ask_event = 3'd1;
            if (is_pow) ask_row_offset = rows;  // row_q is entry 0 of the element's table
          end
        endcase
      end
      StExp: begin
        ask_rows  = 16'(job_i.exp_rows);
        ask_store = 3'd2;
        ask_event = 3'd2;
      end
      StIndex: begin
        ask_rows  = 16'(index_rows);
        ask_store = 3'd4;
        ask_event = 3'd0;
      end
      default: ask_row = slot_row_q;
    endcase
  end

  always_ff @(posedge clk) begin
    if (!rst_n) m_req_valid <= 1'b0;
    else        m_req_valid <= taken || (m_req_valid && !m_req_ready);
    if (!m_req_valid) begin
      m_req_addr  <= base_q + {12'd0, offset_q, 4'd0};
      m_req_rows  <= ask_rows;
      m_req_store <= ask_store;
      m_req_row   <= ask_row + ask_row_offset;
      m_req_event <= ask_event;
    end
  end

  wire logic operand_taken = taken && (state_q == StOperand || state_q == StGather);
  assign row_want_o = (state_q == StTable) && (rows_q < 2'd2) && !m_req_valid;

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
      cap_rows_q <= RowBits'(job_i.cap) * rows;
      a_q        <= share_i.src_a;
      b_q        <= share_i.src_b;
      e_q        <= share_i.exponents;
    end else begin
      if (group_begins) buffer_q <= !buffer_q;
      groups_q   <= groups_q + 2'(group_begins) - 2'(retire_group_i);
      rows_q     <= rows_q + 2'(row_taken_i) - 2'(retire_round_i && is_fixed);
      operands_q <= operands_q + 6'(operand_taken) - 6'(retire_i && (is_mul || is_prod));
      if (operand_taken) begin
        slot_q     <= slot_q + 5'd1;
        slot_row_q <= (slot_q == 5'(OperandSlots - 1)) ? first_row : slot_row_q + rows;
      end
      if (init_taken) a_q <= next_base;
      if (taken && state_q == StExp) e_q <= next_base;
      if (taken && (state_q == StOperand || (state_q == StInit && part_q == PartOneTable)))
        b_q <= next_base;
      if (state_q == StNext) begin
        left_q    <= left_q - 32'(n_q);
        element_q <= element_q + 32'(n_q);
      end
    end

    group_row_q <= one_group ? first_row
                             : rows + ((buffer_q && state_q != StIdle) ? cap_rows_q : '0);
    if (state_q == StGroup) begin
      n_q           <= (left_q < 32'(job_i.cap)) ? left_q[8:0] : job_i.cap;
      index_first_q <= {2'd0, element_q};
      rounds_left_q <= job_i.length;
    end else if (row_taken_i || (taken && state_q == StGather && last_element_q)) begin
      rounds_left_q <= rounds_left_q - 32'd1;
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
      row_q   <= (state_q == StGroup) ? group_row_q : '0;
      index_at_q <= {{(IndexBits - 2){1'b0}}, index_first_q[1:0]};
    end else if (taken && (state_q != StInit || init_taken)) begin
      entry_q    <= last_element_q && (state_q == StInit) ? '0 : entry_q + 9'd1;
      index_at_q <= index_at_q + 1'b1;
      row_q      <= row_q + row_step_q;
    end
  end

  assign busy_o = (state_q != StIdle) || m_req_valid;

endmodule

`default_nettype wire
