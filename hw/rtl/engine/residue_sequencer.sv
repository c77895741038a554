// Issues the Montgomery products of one command, round-robin over the contexts of a group.
//
// A command is a loop over groups of at most `cap` elements; a group is a sequence of rounds; a
// round is one product for every context: acc_c = a x b with a, b chosen by opcode and round.
// A round's product needs the same context's product of the round before: it is issued once fewer
// products are in flight than the group has contexts (results come back in order). Which product
// is issued when depends on sizes and on the arrival of data, never on operands or exponents; an
// exponent digit only selects the row of the table store. A request follows the one before in seven
// cycles at most, fewer than a pass takes in any ring that is worth its name.
//
// POW with a modulus per element (job_i.per_element) has no common M or ONE. For context c of each
// group the loader writes, before it tells the arrival of the initial residue,
//   M_c    to the modulus store,     row rows * (1 + c);
//   ONE_c  to the accumulator store, row rows * (1 + cap + c): the half that the products of such a
//          command do not use, read as a where an ordinary power reads row 0;
//   ONE_c  to the table store,       row rows * (TabFirst + 16 * c): entry 0, so that digit 0 is an
//          entry like the others;
//   a_c    to the table store,       row rows * (TabFirst + 16 * c + 1), as in an ordinary power.
// Exponents as in an ordinary power. All groups use the same rows (a power has one group at a time).
//
// Length: over 200 lines; the opcode table and the loop it drives are one state machine.
`default_nettype none

module residue_sequencer
  import residue_engine_pkg::*;
  import residue_abi_pkg::*;
#(
  parameter int unsigned AccRowBits = 13,
  parameter int unsigned TabRowBits = 15,
  parameter int unsigned ExpRowBits = 12,
  parameter int unsigned ModRowBits = 11
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic                  start_i,
  input  wire  logic                  abort_i,        // issue nothing more
  input  wire  job_t                  job_i,          // stable while busy
  output       logic                  busy_o,
  output       logic                  stall_o,        // a product waits for data
  // Arrivals from the loader, retirements from the write-back, results taken from the emit queue
  input  wire  logic                  init_arrived_i,
  input  wire  logic                  exponent_arrived_i,
  input  wire  logic                  row_arrived_i,
  input  wire  logic                  operand_arrived_i,
  input  wire  logic                  retire_i,
  input  wire  logic                  retire_group_i,
  input  wire  logic                  emit_taken_i,
  // Exponent store, two cycles of latency
  output       logic                  exp_ren_o,
  output       logic [ExpRowBits-1:0] exp_rrow_o,
  input  wire  logic [127:0]          exp_rdata_i,
  // Product requests
  output       logic                  m_req_valid,
  input  wire  logic                  m_req_ready,
  output       logic [AccRowBits-1:0] m_req_a_row,
  output       logic                  m_req_b_is_acc,
  output       logic [TabRowBits-1:0] m_req_b_row,
  output       logic [ModRowBits-1:0] m_req_m_row,
  output       logic [AccRowBits-1:0] m_req_dst_row,
  output       logic                  m_req_to_acc,
  output       logic                  m_req_to_table,
  output       logic [TabRowBits-1:0] m_req_tab_row,
  output       logic                  m_req_emit,
  output       logic                  m_req_last_of_round,
  output       logic                  m_req_last_of_group
);

  typedef enum logic [3:0] {
    StIdle, StGroup, StCheck, StExpRead, StExpWait, StDigit, StOffset, StAddress, StRequest, StDrain
  } state_e;

  localparam int unsigned SlotBits = $clog2(OperandSlots);
  localparam int unsigned IndexBits = ExpRowBits + 7;  // of a bit of the longest exponent
  if (OperandSlots != 2 ** SlotBits) begin : g_slots_illegal
    $error("OperandSlots must be a power of two");
  end

  // What b is in a round
  typedef enum logic [2:0] {
    SrcAcc, SrcConst, SrcContext, SrcOperand, SrcDigit
  } source_e;

  state_e state_q, state_d;

  // Loop counters
  logic [31:0] left_q;          // elements not yet in a finished group
  logic [8:0]  n_q;             // elements of this group
  logic [8:0]  context_q;
  logic [IndexBits-1:0] round_q;     // what selects an exponent digit, and counts POW's table
  logic        first_round_q, second_round_q;
  logic [32:0] rounds_left_q;   // after this one; POW: windows
  logic        none_left_q;     // rounds_left_q is zero
  logic        in_windows_q;    // POW: the table is built
  logic        first_window_q;  // POW: no window was multiplied in yet
  logic [2:0]  step_q;          // POW: squarings done in this window
  logic        buffer_q;        // which half of the accumulator store
  logic        parity_q;        // which of the two table rows
  // Addresses that follow the context
  logic [AccRowBits-1:0] acc_row_q;
  logic [TabRowBits-1:0] ctx_row_q;
  logic [TabRowBits-1:0] entry_offset_q;   // POW: where this round's power goes, from ctx_row
  logic [ExpRowBits-1:0] exp_row_q;
  logic [SlotBits-1:0]   slot_q;
  logic [TabRowBits-1:0] slot_row_q;
  // What is there, and what is under way
  logic [9:0]  init_avail_q, exp_avail_q;
  logic [8:0]  operand_avail_q;
  logic [1:0]  row_avail_q;
  logic [9:0]  in_flight_q;
  logic [5:0]  emit_used_q;
  logic [1:0]  groups_q;        // groups issued or being issued, not retired

  // ---- The opcode, decoded before the start ------------------------------------------------------
  logic is_pow, is_fixed, is_table, is_self, is_prod, is_mul, is_sqr, per_element;
  logic [8:0] row_entries_q;              // entries of a table row, 2^w
  logic [AccRowBits-1:0] half_rows_q;     // rows of one half of the accumulator store
  logic [1:0] digit_log2_q;
  logic [32:0] more_rounds_q;             // after the first one; POW: windows

  always_ff @(posedge clk) begin
    if (state_q == StIdle) begin
      is_pow      <= job_i.opcode == OpPow;
      is_fixed    <= (job_i.opcode == OpPowFixed) || (job_i.opcode == OpMultiPow);
      is_table    <= job_i.opcode == OpTable;
      is_self     <= job_i.opcode == OpSelftest;
      is_prod     <= job_i.opcode == OpProd;
      is_mul      <= job_i.opcode == OpMul;
      is_sqr      <= job_i.opcode == OpSqr;
      per_element <= (job_i.opcode == OpPow) && job_i.per_element;
      row_entries_q <= 9'd1 << (4'd1 << job_i.window_log2);
      half_rows_q   <= AccRowBits'(job_i.cap) * AccRowBits'(job_i.rows);
      digit_log2_q  <= (job_i.opcode == OpPow) ? 2'($clog2(PowWindow)) : job_i.window_log2;
      unique case (job_i.opcode)
        OpTable:    more_rounds_q <= (33'd1 << (4'd1 << job_i.window_log2)) - 33'd1;
        OpSelftest: more_rounds_q <= 33'(job_i.length) + 33'd1;
        OpPow, OpPowFixed, OpMultiPow, OpProd, OpSqr:
                    more_rounds_q <= 33'(job_i.length) - 33'd1;
        default:    more_rounds_q <= '0;
      endcase
    end
  end

  // ---- The opcode table -------------------------------------------------------------------------

  logic    a_is_one, emit, to_table, last_round;
  logic    needs_init, needs_exp, needs_row, needs_operand;
  logic    table_from_first;     // SrcContext: entry 1 of the context's table
  source_e b_src;
  logic [1:0] b_const;

  always_comb begin
    a_is_one         = 1'b0;
    b_src            = SrcAcc;
    b_const          = 2'(TabR2);
    to_table         = 1'b0;
    table_from_first = 1'b0;
    needs_init       = 1'b0;
    needs_exp        = 1'b0;
    needs_row        = 1'b0;
    needs_operand    = 1'b0;
    last_round       = none_left_q;
    emit             = last_round;
    if (is_pow) begin
      last_round = none_left_q && in_windows_q && (step_q == 3'(PowWindow));
      emit       = last_round;
      if (!in_windows_q) begin
        // Rounds 0 .. 14 make a^1 .. a^15: entry round + 1.
        a_is_one         = first_round_q;
        b_src            = SrcContext;
        table_from_first = 1'b1;
        to_table         = !first_round_q;
        needs_init       = first_round_q;
      end else if (step_q == 3'(PowWindow)) begin
        a_is_one  = first_window_q;
        b_src     = SrcDigit;
        needs_exp = a_is_one;
      end
    end else if (is_fixed) begin
      a_is_one   = first_round_q && !job_i.init_from_a;
      needs_init = first_round_q && job_i.init_from_a;
      needs_exp  = first_round_q;
      needs_row  = 1'b1;
      b_src      = SrcDigit;
    end else if (is_table) begin
      a_is_one   = first_round_q || second_round_q;
      b_src      = first_round_q ? SrcConst : SrcContext;
      b_const    = 2'(TabOne);
      needs_init = second_round_q;
      emit       = 1'b1;
    end else if (is_self) begin
      a_is_one = first_round_q;
      b_src    = (first_round_q || last_round) ? SrcConst : SrcAcc;
      b_const  = last_round ? 2'(TabExit) : 2'(TabOne);
    end else if (is_prod || is_mul) begin
      a_is_one      = is_prod && first_round_q;
      needs_init    = is_mul;
      needs_operand = 1'b1;
      b_src         = SrcOperand;
    end else if (is_sqr) begin
      needs_init = first_round_q;
    end else begin
      // TO_MONT, FROM_MONT
      needs_init = 1'b1;
      b_src      = SrcConst;
      b_const    = (job_i.opcode == OpFromMont) ? 2'(TabExit) : 2'(TabR2);
    end
  end

  // ---- May the product be issued? ----------------------------------------------------------------
  wire logic data_ready = (!needs_init || init_avail_q != '0) &&
                          (!needs_exp || exp_avail_q != '0) &&
                          (!needs_row || row_avail_q != '0) &&
                          (!needs_operand || operand_avail_q != '0);
  wire logic dependency_ready = first_round_q || (in_flight_q < 10'(n_q));
  wire logic emit_ready = !emit || (emit_used_q < job_i.emit_cap);
  wire logic last_context = (context_q + 9'd1 == n_q);
  wire logic accepted = m_req_valid && m_req_ready;
  wire logic round_end = accepted && m_req_last_of_round;
  wire logic group_end = accepted && m_req_last_of_group;
  wire logic group_begins = (state_q == StGroup) && !abort_i && (left_q != '0) &&
                            (groups_q < 2'd2);

  assign stall_o = (state_q == StCheck) && !data_ready;
  assign busy_o  = (state_q != StIdle);

  always_comb begin
    state_d = state_q;
    unique case (state_q)
      StIdle:    if (start_i) state_d = StGroup;
      StGroup:   if (abort_i) state_d = StDrain;
                 else if (left_q == '0) state_d = StDrain;
                 else if (group_begins) state_d = StCheck;
      StCheck:   if (abort_i) state_d = StDrain;
                 else if (data_ready && dependency_ready && emit_ready)
                   state_d = (b_src == SrcDigit) ? StExpRead : StAddress;
      StExpRead: state_d = StExpWait;
      StExpWait: state_d = StDigit;
      StDigit:   state_d = StOffset;
      StOffset:  state_d = StAddress;
      StAddress: state_d = StRequest;
      StRequest: if (m_req_ready) state_d = group_end ? StGroup : StCheck;
      StDrain:   if (in_flight_q == '0) state_d = StIdle;
      default:   state_d = StIdle;
    endcase
  end

  // ---- Exponent digit ----------------------------------------------------------------------------
  logic [IndexBits-1:0] string_bit_q;   // where the digit begins in its string
  always_ff @(posedge clk) begin
    if (state_q == StCheck)
      string_bit_q <= (is_pow ? rounds_left_q[IndexBits-1:0] : round_q) << digit_log2_q;
  end
  assign exp_ren_o  = (state_q == StExpRead);
  assign exp_rrow_o = exp_row_q + string_bit_q[IndexBits-1:7];

  // Digits are aligned: the byte, then the digit in it. The string arrives in StDigit.
  wire logic [7:0] digit_byte = exp_rdata_i[{string_bit_q[6:3], 3'd0} +: 8];
  logic [7:0] digit;
  logic [7:0] digit_q;
  always_comb begin
    unique case (digit_log2_q)
      2'd0:    digit = {7'd0, digit_byte[string_bit_q[2:0]]};
      2'd1:    digit = {6'd0, digit_byte[{string_bit_q[2:1], 1'd0} +: 2]};
      2'd2:    digit = {4'd0, digit_byte[{string_bit_q[2], 2'd0} +: 4]};
      default: digit = digit_byte;
    endcase
  end

  // ---- Table store row of b ----------------------------------------------------------------------
  wire logic [TabRowBits-1:0] rows = TabRowBits'(job_i.rows);
  wire logic [TabRowBits-1:0] first_row = TabRowBits'(f_residue_rows(2'(TabFirst), job_i.rows));
  wire logic [TabRowBits-1:0] const_row = TabRowBits'(f_residue_rows(b_const, job_i.rows));

  // The digit's entry: a digit is below the entries of a row.
  wire logic [8:0] digit_entry = ((is_fixed && parity_q) ? row_entries_q : 9'd0) | 9'(digit_q);
  logic [TabRowBits-1:0] digit_offset_q;
  always_ff @(posedge clk) begin
    digit_q        <= digit;
    digit_offset_q <= TabRowBits'(digit_entry) * rows;
  end

  logic [TabRowBits-1:0] b_base_q;
  always_ff @(posedge clk) begin
    if (state_q == StCheck) begin
      unique case (b_src)
        SrcAcc:     b_base_q <= TabRowBits'(acc_row_q);
        SrcConst:   b_base_q <= const_row;
        SrcOperand: b_base_q <= slot_row_q;
        SrcDigit:   b_base_q <= is_pow ? ctx_row_q : first_row;
        default:    b_base_q <= ctx_row_q;
      endcase
    end
  end

  // Digit 0 of a power is ONE, but with a modulus per element.
  wire logic digit_is_one = (b_src == SrcDigit) && is_pow && !per_element && (digit_q == '0);
  wire logic [TabRowBits-1:0] one_row = TabRowBits'(f_residue_rows(2'(TabOne), job_i.rows));
  wire logic [TabRowBits-1:0] b_row = (digit_is_one ? one_row : b_base_q) +
      ((b_src == SrcDigit) ? digit_offset_q : table_from_first ? rows : '0);

  assign m_req_valid = (state_q == StRequest);

  // Row 0 of the accumulator store holds ONE; then two halves of cap residues.
  wire logic [AccRowBits-1:0] group_row =
      AccRowBits'(job_i.rows) + (buffer_q ? half_rows_q : '0);

  // ---- State -------------------------------------------------------------------------------------
  wire logic [TabRowBits-1:0] ctx_step = is_pow ? rows << PowWindow : rows;
  wire logic operand_used = accepted && needs_operand;
  wire logic init_used = accepted && needs_init;
  wire logic exp_used = accepted && needs_exp;
  wire logic row_used = round_end && needs_row;
  wire logic emit_used = accepted && m_req_emit;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q <= StIdle;
    end else begin
      state_q <= state_d;
    end

    if (state_q == StIdle) begin
      left_q          <= job_i.count;
      buffer_q        <= 1'b0;
      parity_q        <= 1'b0;
      init_avail_q    <= '0;
      exp_avail_q     <= '0;
      row_avail_q     <= '0;
      operand_avail_q <= '0;
      in_flight_q     <= '0;
      emit_used_q     <= '0;
      groups_q        <= '0;
      slot_q          <= '0;
      slot_row_q      <= first_row;
    end else begin
      init_avail_q    <= init_avail_q + 10'(init_arrived_i) - 10'(init_used);
      exp_avail_q     <= exp_avail_q + 10'(exponent_arrived_i) - 10'(exp_used);
      row_avail_q     <= row_avail_q + 2'(row_arrived_i) - 2'(row_used);
      operand_avail_q <= operand_avail_q + 9'(operand_arrived_i) - 9'(operand_used);
      in_flight_q     <= in_flight_q + 10'(accepted) - 10'(retire_i);
      emit_used_q     <= emit_used_q + 6'(emit_used) - 6'(emit_taken_i);
      groups_q        <= groups_q + 2'(group_begins) - 2'(retire_group_i);
      if (row_used) parity_q <= !parity_q;
      if (operand_used) begin
        slot_q     <= slot_q + SlotBits'(1);
        slot_row_q <= (slot_q == SlotBits'(OperandSlots - 1)) ? first_row
                                                       : slot_row_q + rows;
      end
      if (group_end) begin
        left_q   <= left_q - 32'(n_q);
        buffer_q <= !buffer_q && !per_element;
      end
    end

    if (state_q == StGroup) begin
      n_q          <= (left_q < 32'(job_i.cap)) ? left_q[8:0] : job_i.cap;
      context_q    <= '0;
      round_q        <= '0;
      first_round_q  <= 1'b1;
      second_round_q <= 1'b0;
      rounds_left_q  <= more_rounds_q;
      none_left_q    <= (more_rounds_q == '0);
      in_windows_q   <= 1'b0;
      first_window_q <= 1'b1;
      step_q       <= 3'(PowWindow);
      entry_offset_q <= rows << 1;
    end

    if (state_q == StGroup || round_end) begin
      // (after the last round StGroup sets it again for the other half)
      acc_row_q <= group_row;
      ctx_row_q <= first_row;
      exp_row_q <= '0;
    end else if (accepted) begin
      acc_row_q <= acc_row_q + AccRowBits'(job_i.rows);
      ctx_row_q <= ctx_row_q + ctx_step;
      exp_row_q <= exp_row_q + ExpRowBits'(job_i.exp_rows);
    end

    if (accepted) context_q <= m_req_last_of_round ? '0 : context_q + 9'd1;
    if (round_end) begin
      if (is_pow && in_windows_q)
        step_q <= (step_q == 3'(PowWindow)) ? '0 : step_q + 3'd1;
      else if (is_pow && round_q[PowWindow-1:0] == PowWindow'(2 ** PowWindow - 2))
        in_windows_q <= 1'b1;
      if (!is_pow || (in_windows_q && step_q == 3'(PowWindow))) begin
        first_window_q <= 1'b0;
        rounds_left_q  <= rounds_left_q - 33'd1;
        none_left_q    <= (rounds_left_q == 33'd1);
      end
      round_q        <= round_q + IndexBits'(1);
      first_round_q  <= 1'b0;
      second_round_q <= first_round_q;
      if (to_table) entry_offset_q <= entry_offset_q + rows;
    end

    if (state_q == StAddress) begin
      m_req_a_row         <= !a_is_one ? acc_row_q : per_element ? acc_row_q + half_rows_q : '0;
      m_req_m_row         <= per_element ? ModRowBits'(acc_row_q) : '0;
      m_req_b_is_acc      <= (b_src == SrcAcc);
      m_req_b_row         <= b_row;
      m_req_dst_row       <= acc_row_q;
      m_req_to_acc        <= !last_round;
      m_req_to_table      <= to_table;
      m_req_tab_row       <= ctx_row_q + entry_offset_q;
      m_req_emit          <= emit;
      m_req_last_of_round <= last_context;
      m_req_last_of_group <= last_context && last_round;
    end
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (rst_n && state_q != StIdle) begin
      a_emit_room : assert (emit_used_q <= job_i.emit_cap);
      a_groups    : assert (groups_q <= 2'd2);
      a_rows      : assert (!row_used || row_avail_q != '0);
    end
  end
`endif

endmodule

`default_nettype wire
