// Processing element with words of two digits: one step of a Montgomery product.
//
//   u = t + a*b ;  q = u mod 2^V ;  t' = (u >> V) + q*M,   V = 2 * WordBits
//
// residue_pe with the products of a word done in three quarters of the multipliers. Ports, order and
// rules are the same: words j = 0 .. S-1 of a, M and t stream in at one a cycle, a and M are zero
// for j >= k, S > k; t is redundant, {upper, lower} of residue_mac_karatsuba; the b lane is one cycle
// faster than a.
//
// Ranges:     a, M, b words [0, 2^V); value t < 3*N~, 4*N~ < 2^(V*k); a < 2*N~. Then t' < 3*N~.
// Latency:    24 cycles from a_i to a_o (25 from a_i to the t of the same word, which stands one
//             cycle after its a; M stands 12 cycles after its a); b lane 23. Independent of data.
// Throughput: one word a cycle, operands back to back; each may have its own modulus.
// Cost:       36 DSP48E2; LUT and FF: `residue rtl-report`.
// Source:     residue_pe, residue_mac_karatsuba.
`default_nettype none

module residue_pe_karatsuba #(
    parameter int unsigned WordBits = 50,
    localparam int unsigned V = 2 * WordBits,
    localparam int unsigned LowerBits = WordBits + 3,
    localparam int unsigned UpperBits = WordBits + 5,
    localparam int unsigned TBits = LowerBits + UpperBits
) (
    input  wire              clk,
    input  wire              first_i,  // with word 0 of a
    input  wire  [    V-1:0] a_i,
    input  wire  [    V-1:0] b_i,      // b lane; taken with first_i
    input  wire  [TBits-1:0] t_i,      // 1 cycle after a
    input  wire  [    V-1:0] m_i,      // 12 cycles after a
    output logic             first_o,
    output logic [    V-1:0] a_o,
    output logic [    V-1:0] b_o,
    output logic [TBits-1:0] t_o,
    output logic [    V-1:0] m_o
);

  localparam int unsigned Latency = 24;

  wire [LowerBits-1:0] u_lower, t_lower;
  wire [UpperBits-1:0] u_upper, t_upper;
  logic [LowerBits-1:0] t_lower_q;
  logic [UpperBits-1:0] t_upper_q;
  wire u_first;
  wire [V-1:0] q;
  always_ff @(posedge clk) begin
    t_upper_q <= t_i[TBits-1:LowerBits];
    t_lower_q <= t_lower;
  end
  assign t_o = {t_upper, t_lower_q};

  residue_mac_karatsuba #(.WordBits(WordBits)) u_product (
      .clk, .a_i, .b_i, .first_i, .t_lower_i(t_i[LowerBits-1:0]), .t_upper_i(t_upper_q),
      .clear_t_i(1'b0), .s_lower_o(u_lower), .s_upper_o(u_upper), .quotient_o(q), .first_o(u_first)
  );

  // Slot j of the reduction takes word j + 1 of u; where that is a next operand's word, zero.
  residue_mac_karatsuba #(.WordBits(WordBits)) u_reduction (
      .clk, .a_i(m_i), .b_i(q), .first_i(u_first), .t_lower_i(u_lower), .t_upper_i(u_upper),
      .clear_t_i(u_first), .s_lower_o(t_lower), .s_upper_o(t_upper), .quotient_o(), .first_o()
  );

  residue_delay #(.Width(V + 1), .Cycles(Latency)) u_a (
      .clk, .d_i({first_i, a_i}), .q_o({first_o, a_o})
  );
  residue_delay #(.Width(V), .Cycles(Latency)) u_m (.clk, .d_i(m_i), .q_o(m_o));
  residue_delay #(.Width(V), .Cycles(Latency - 1)) u_b (.clk, .d_i(b_i), .q_o(b_o));

endmodule

`default_nettype wire
