// Processing element: one digit step of a Montgomery product, words streaming through.
//
//   u = t + a*b ;  q = u mod 2^W ;  t' = (u >> W) + q*M        (N~ = M*2^W - 1, so q needs no
//                                                              multiplication)
//
// W = WordBits. Words j = 0 .. S-1 of a, M and t stream in at one a cycle; a and M are zero
// for j >= k, and S > k. t is redundant (residue_mac_word). b stays for the operand: the b lane is
// one cycle faster than a, so that of words that enter a ring in step with a's, PE p finds its own
// beside a's first word.
//
// Ranges:     a, M, b words [0, 2^W); value t < 3*N~, 4*N~ < 2^(W*k); a < 2*N~. Then t' < 3*N~.
// Latency:    15 cycles from a_i to a_o (16 from a_i to the t of the same word, which stands one
//             cycle after its a; M stands 8 cycles after its a); b lane 14. Independent of data.
// Throughput: one word a cycle, operands back to back; each may have its own modulus.
// Cost:       12 DSP48; LUT and FF: `residue rtl-report`.
// Source:     radix-2^W Montgomery with N~ = N * (-N^-1 mod 2^W) (sim/residue_sim/golden.py).
`default_nettype none

module residue_pe #(
    parameter int unsigned WordBits = 51,
    localparam int unsigned W = WordBits,
    localparam int unsigned H = (W + 1) / 2,
    localparam int unsigned T = H + 2
) (
    input  wire            clk,
    input  wire            first_i, // with word 0 of a
    input  wire  [  W-1:0] a_i,
    input  wire  [  W-1:0] b_i,     // b lane; taken with first_i
    input  wire  [2*T-1:0] t_i,     // 1 cycle after a
    input  wire  [  W-1:0] m_i,     // 8 cycles after a
    output logic           first_o,
    output logic [  W-1:0] a_o,
    output logic [  W-1:0] b_o,
    output logic [2*T-1:0] t_o,
    output logic [  W-1:0] m_o
);

  localparam int unsigned Latency = 15;

  wire u_first;
  wire [T-1:0] u0, u1;
  residue_mac_word #(.WordBits(WordBits), .DropFirst(1'b1)) u_product (
      .clk, .a_i, .b_i, .first_i, .t0_i(t_i[T-1:0]), .t1_i(t_i[2*T-1:T]), .clear_t_i(1'b0),
      .s0_o(u0), .s1_o(u1), .first_o(u_first)
  );

  // Slot j of the reduction takes word j + 1 of u; where that is a next operand's word, zero.
  residue_mac_word #(.WordBits(WordBits), .DropFirst(1'b0)) u_reduction (
      .clk, .a_i(m_i), .b_i({u1[W-H-1:0], u0[H-1:0]}), .first_i(u_first),
      .t0_i(u0), .t1_i(u1), .clear_t_i(u_first), .s0_o(t_o[T-1:0]), .s1_o(t_o[2*T-1:T]),
      .first_o()
  );

  residue_delay #(.Width(W + 1), .Cycles(Latency)) u_a (
      .clk, .d_i({first_i, a_i}), .q_o({first_o, a_o})
  );
  residue_delay #(.Width(W), .Cycles(Latency)) u_m (.clk, .d_i(m_i), .q_o(m_o));
  residue_delay #(.Width(W), .Cycles(Latency - 1)) u_b (.clk, .d_i(b_i), .q_o(b_o));

endmodule

`default_nettype wire
