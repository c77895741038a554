// Streams the operands of one pass of one product into a ring of Karatsuba elements.
//
// Such a ring takes a whole row (two digits, one ring word) of a, M and b a cycle. After a fetch
// pulse the words a_j, M_j and b_(pass*P + p) leave FetchLatency (5) cycles later, one a cycle. The
// accumulator store has a second read port, a copy of the memory, for b.
// Timing is a function of the public sizes alone. Only rows that the product uses are read.
`default_nettype none

module residue_operands_rows #(
  parameter int unsigned WordBits   = 50,
  parameter int unsigned Elements   = 12,
  parameter int unsigned AccRowBits = 13,
  parameter int unsigned TabRowBits = 15,
  parameter int unsigned ModRowBits = 6
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic [7:0]            rows_i,         // of a residue
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
  output       logic                  acc_b_ren_o,
  output       logic [AccRowBits-1:0] acc_b_rrow_o,
  input  wire  logic [2*WordBits-1:0] acc_b_rdata_i,
  output       logic                  tab_ren_o,
  output       logic [TabRowBits-1:0] tab_rrow_o,
  input  wire  logic [2*WordBits-1:0] tab_rdata_i,
  output       logic                  mod_ren_o,
  output       logic [ModRowBits-1:0] mod_rrow_o,
  input  wire  logic [2*WordBits-1:0] mod_rdata_i,
  // Words for the ring
  output       logic [2*WordBits-1:0] m_a_o,
  output       logic [2*WordBits-1:0] m_m_o,
  output       logic [2*WordBits-1:0] m_b_o
);

  localparam int unsigned WordIndexBits = 12;

  // The fetch, with the first word of b in this pass
  logic                     fetched_q;
  logic [WordIndexBits-1:0] first_q;
  logic [AccRowBits-1:0]    fetched_a_row_q;
  logic [TabRowBits-1:0]    fetched_b_row_q;
  logic [ModRowBits-1:0]    fetched_m_row_q;
  logic                     fetched_b_is_acc_q;

  // Read stage: cycle 0 is two cycles behind the fetch pulse.
  logic                     active_q;
  logic [7:0]               cycle_q;
  logic [AccRowBits-1:0]    a_row_q;
  logic [TabRowBits-1:0]    b_row_q;
  logic [ModRowBits-1:0]    m_row_q;
  logic                     b_is_acc_q;
  logic [WordIndexBits-1:0] b_word_q;

  wire logic a_left = (cycle_q < rows_i);
  wire logic b_left = (cycle_q < 8'(Elements)) && (b_word_q < WordIndexBits'(rows_i));
  wire logic read_a = active_q && a_left;
  wire logic read_b = active_q && b_left;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      fetched_q <= 1'b0;
      active_q  <= 1'b0;
    end else begin
      fetched_q <= fetch_valid_i;
      if (fetched_q) active_q <= 1'b1;
      else if (!a_left && !b_left) active_q <= 1'b0;
    end
    cycle_q            <= fetched_q ? '0 : cycle_q + 8'd1;
    first_q            <= WordIndexBits'(fetch_pass_i) * WordIndexBits'(Elements);
    fetched_a_row_q    <= fetch_a_row_i;
    fetched_b_row_q    <= fetch_b_row_i;
    fetched_m_row_q    <= fetch_m_row_i;
    fetched_b_is_acc_q <= fetch_b_is_acc_i;
    if (fetched_q) begin
      a_row_q    <= fetched_a_row_q;
      m_row_q    <= fetched_m_row_q;
      b_is_acc_q <= fetched_b_is_acc_q;
      b_row_q    <= fetched_b_row_q + TabRowBits'(first_q);
      b_word_q   <= first_q;
    end else begin
      a_row_q  <= a_row_q + AccRowBits'(1);
      m_row_q  <= m_row_q + ModRowBits'(1);
      b_row_q  <= b_row_q + TabRowBits'(1);
      b_word_q <= b_word_q + WordIndexBits'(1);
    end
  end

  assign acc_ren_o    = read_a;
  assign acc_rrow_o   = a_row_q;
  assign mod_ren_o    = read_a;
  assign mod_rrow_o   = m_row_q;
  assign acc_b_ren_o  = read_b && b_is_acc_q;
  assign acc_b_rrow_o = AccRowBits'(b_row_q);
  assign tab_ren_o    = read_b && !b_is_acc_q;
  assign tab_rrow_o   = b_row_q;

  // Data stage: two cycles behind the read stage.
  logic [1:0] a_valid_q, b_valid_q, b_is_acc_d_q;

  always_ff @(posedge clk) begin
    a_valid_q    <= {a_valid_q[0], read_a};
    b_valid_q    <= {b_valid_q[0], read_b};
    b_is_acc_d_q <= {b_is_acc_d_q[0], b_is_acc_q};
    m_a_o <= a_valid_q[1] ? acc_rdata_i : '0;
    m_m_o <= a_valid_q[1] ? mod_rdata_i : '0;
    m_b_o <= !b_valid_q[1] ? '0 : (b_is_acc_d_q[1] ? acc_b_rdata_i : tab_rdata_i);
  end

endmodule

`default_nettype wire
