// Streams the operands of one pass of one product into the ring.
//
// After a fetch pulse the words a_j, M_j and b_(pass*P + p) leave FetchLatency (6) cycles later, one
// a cycle. The stores hold two words a row; a and b share the accumulator store's one read port,
// b in even cycles, a in odd ones, so a squaring costs no second copy.
// Timing is a function of the public sizes alone. Only rows that the product uses are read.
// Not for: Karatsuba rings, which take a row a cycle (residue_operands_rows).
`default_nettype none

module residue_operands #(
  parameter int unsigned WordBits   = 51,
  parameter int unsigned Elements   = 21,
  parameter int unsigned AccRowBits = 13,
  parameter int unsigned TabRowBits = 15,
  parameter int unsigned ModRowBits = 6
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic [7:0]            k_i,
  // Fetch pulse of the ring, with the product's operands
  input  wire  logic                  fetch_valid_i,
  input  wire  logic [7:0]            fetch_pass_i,
  input  wire  logic [AccRowBits-1:0] fetch_a_row_i,
  input  wire  logic                  fetch_b_is_acc_i,
  input  wire  logic [TabRowBits-1:0] fetch_b_row_i,
  input  wire  logic [ModRowBits-1:0] fetch_m_row_i,
  // Store read ports, two cycles of latency
  output       logic                  acc_ren_o,
  output       logic [AccRowBits-1:0] acc_rrow_o,
  input  wire  logic [2*WordBits-1:0] acc_rdata_i,
  output       logic                  tab_ren_o,
  output       logic [TabRowBits-1:0] tab_rrow_o,
  input  wire  logic [2*WordBits-1:0] tab_rdata_i,
  output       logic                  mod_ren_o,
  output       logic [ModRowBits-1:0] mod_rrow_o,
  input  wire  logic [2*WordBits-1:0] mod_rdata_i,
  // Words for the ring
  output       logic [WordBits-1:0]   m_a_o,
  output       logic [WordBits-1:0]   m_m_o,
  output       logic [WordBits-1:0]   m_b_o
);

  localparam int unsigned DigitIndexBits = 12;

  // The fetch, with the first digit of b in this pass
  logic                      fetched_q;
  logic [DigitIndexBits-1:0] first_q;
  logic [AccRowBits-1:0]     fetched_a_row_q;
  logic [TabRowBits-1:0]     fetched_b_row_q;
  logic [ModRowBits-1:0]     fetched_m_row_q;
  logic                      fetched_b_is_acc_q;

  // Read stage: cycle 0 is two cycles behind the fetch pulse.
  logic                      active_q;
  logic [7:0]                cycle_q;
  logic [AccRowBits-1:0]     a_row_q;
  logic [TabRowBits-1:0]     b_row_q;
  logic [ModRowBits-1:0]     m_row_q;
  logic                      b_is_acc_q;
  logic [DigitIndexBits-1:0] b_first_q;
  logic [DigitIndexBits-1:0] b_pair_q;    // pair read next, counted from digit 0

  wire logic b_in_range = (DigitIndexBits'(b_pair_q << 1) < DigitIndexBits'(k_i));
  wire logic read_b = active_q && !cycle_q[0] && b_in_range && (cycle_q <= 8'(Elements));
  wire logic read_a = active_q && cycle_q[0] && (cycle_q < k_i);

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      fetched_q <= 1'b0;
      active_q  <= 1'b0;
    end else begin
      fetched_q <= fetch_valid_i;
      if (fetched_q) active_q <= 1'b1;
      else if (cycle_q >= k_i && cycle_q > 8'(Elements)) active_q <= 1'b0;
    end
    first_q            <= DigitIndexBits'(fetch_pass_i) * DigitIndexBits'(Elements);
    fetched_a_row_q    <= fetch_a_row_i;
    fetched_b_row_q    <= fetch_b_row_i;
    fetched_m_row_q    <= fetch_m_row_i;
    fetched_b_is_acc_q <= fetch_b_is_acc_i;
    if (fetched_q) begin
      cycle_q    <= '0;
      a_row_q    <= fetched_a_row_q;
      m_row_q    <= fetched_m_row_q;
      b_is_acc_q <= fetched_b_is_acc_q;
      b_row_q    <= fetched_b_row_q + TabRowBits'(first_q >> 1);
      b_first_q  <= first_q;
      b_pair_q   <= first_q >> 1;
    end else begin
      if (cycle_q != 8'hff) cycle_q <= cycle_q + 8'd1;
      if (read_a) begin
        a_row_q <= a_row_q + AccRowBits'(1);
        m_row_q <= m_row_q + ModRowBits'(1);
      end
      if (read_b) begin
        b_row_q  <= b_row_q + TabRowBits'(1);
        b_pair_q <= b_pair_q + DigitIndexBits'(1);
      end
    end
  end

  assign acc_ren_o  = read_a || (read_b && b_is_acc_q);
  assign acc_rrow_o = read_a ? a_row_q : AccRowBits'(b_row_q);
  assign tab_ren_o  = read_b && !b_is_acc_q;
  assign tab_rrow_o = b_row_q;
  assign mod_ren_o  = read_a;
  assign mod_rrow_o = m_row_q;

  // Data stage: two cycles (capture) and three cycles (select) behind the read stage.
  logic [7:0] cycle_d1_q, cycle_d2_q, cycle_d3_q;
  logic [2:0] active_d_q;
  logic       b_is_acc_d1_q, b_is_acc_d2_q;
  logic [DigitIndexBits-1:0] b_first_d1_q, b_first_d2_q, b_first_d3_q;

  logic [2*WordBits-1:0] b_out;     // the pair at the store's output
  logic [2*WordBits-1:0] b_hold_q;  // captured two cycles behind its read
  logic [WordBits-1:0]   a_hold_q, m_hold_q;

  assign b_out = b_is_acc_d2_q ? acc_rdata_i : tab_rdata_i;

  wire logic [7:0] j = cycle_d3_q;
  wire logic       odd_first = b_first_d3_q[0];
  wire logic       high_word = odd_first ^ j[0];
  wire logic       a_valid = active_d_q[2] && (j < k_i);
  wire logic       b_valid = active_d_q[2] && (j < 8'(Elements)) &&
                             (b_first_d3_q + DigitIndexBits'(j) < DigitIndexBits'(k_i));

  always_ff @(posedge clk) begin
    if (!rst_n) active_d_q <= '0;
    else        active_d_q <= {active_d_q[1:0], active_q};
    cycle_d1_q    <= cycle_q;
    cycle_d2_q    <= cycle_d1_q;
    cycle_d3_q    <= cycle_d2_q;
    b_is_acc_d1_q <= b_is_acc_q;
    b_is_acc_d2_q <= b_is_acc_d1_q;
    b_first_d1_q  <= b_first_q;
    b_first_d2_q  <= b_first_d1_q;
    b_first_d3_q  <= b_first_d2_q;

    // b pairs read in even cycles arrive two cycles later; at rest no digit stays here.
    if (!cycle_d2_q[0] || !active_d_q[1]) b_hold_q <= b_out;
    a_hold_q <= acc_rdata_i[2*WordBits-1:WordBits];
    m_hold_q <= mod_rdata_i[2*WordBits-1:WordBits];

    m_a_o <= !a_valid ? '0 : (j[0] ? a_hold_q : acc_rdata_i[WordBits-1:0]);
    m_m_o <= !a_valid ? '0 : (j[0] ? m_hold_q : mod_rdata_i[WordBits-1:0]);
    if (!b_valid)        m_b_o <= '0;
    else if (high_word)  m_b_o <= b_hold_q[2*WordBits-1:WordBits];
    else if (odd_first)  m_b_o <= b_out[WordBits-1:0];
    else                 m_b_o <= b_hold_q[WordBits-1:0];
  end

endmodule

`default_nettype wire
