// Word by word: one step of a multiword sum t + a*b in redundant digits.
//
//   sum_j s_j * 2^(W*j) = sum_j (t_j + a_j * b) * 2^(W*j),   W = WordBits
//
// Words arrive one a cycle, least significant first. A redundant word is two limbs of weights 1 and
// 2^H, H = ceil(W/2), of H + 2 bits each; carries between limbs and words stay unresolved, so no
// adder is longer than H + 2 bits and there is no carry loop. With z0 = t0 + (a mod 2^H) * b and
// z1 = t1 + (a >> H) * b, and `prev` the previous word's value,
//
//   s0 = z0 mod 2^H           + (z0 >> W + (z1 >> U) mod 2^H)prev         U = W - H
//   s1 = (z0 >> H) mod 2^U + z1 mod 2^U   + (z1 >> W)prev
//
// The first word is exact: s0 < 2^H, and s1 mod 2^U are its bits; bit U of s1 is its carry. With
// DropFirst the first word is of no further use (it is the quotient digit), so its carry is added
// to the next word.
//
// Ranges:     a_i, b_i [0, 2^W); t0_i, t1_i [0, 2^(H+2)); s0_o [0, 3 * 2^H), s1_o [0, 3 * 2^U).
// Latency:    8 cycles from a_i; t stands one cycle after its a. Independent of data.
// Throughput: one word a cycle; an operand's first word is marked by first_i, takes b_i with it and
//             cuts the carries of what went before. The word after the last one must be zero.
// Cost:       6 DSP48; about 110 LUT. Adders of at most H + 2 bits.
// Source:     carry-save Montgomery; carries move on by weight, word by word.
// Not for:    canonical words (residue_normalise).
`default_nettype none

module residue_mac_word #(
    parameter int unsigned WordBits = 51,
    parameter bit DropFirst = 1'b0,
    localparam int unsigned W = WordBits,
    localparam int unsigned H = (W + 1) / 2,
    localparam int unsigned T = H + 2
) (
    input  wire          clk,
    input  wire  [W-1:0] a_i,
    input  wire  [W-1:0] b_i,        // with first_i
    input  wire          first_i,    // with the first a_i of an operand
    input  wire  [T-1:0] t0_i,       // one cycle after a_i
    input  wire  [T-1:0] t1_i,
    input  wire          clear_t_i,  // takes t as zero
    output logic [T-1:0] s0_o,
    output logic [T-1:0] s1_o,
    output logic         first_o     // with the first s
);

  localparam int unsigned U = W - H;
  // The cascade of a slice shifts by 17 bits; words of toy size are cut into three as well.
  localparam int unsigned D = W < 35 ? (W + 2) / 3 : 17;

  // first_q[n]: first_i, n + 1 cycles ago.
  logic [7:0] first_q;
  always_ff @(posedge clk) first_q <= {first_q[6:0], first_i};
  assign first_o = first_q[7];

  wire [2:0] load_b = {first_q[1:0], first_i};
  wire [3*D-1:0] b = (3 * D)'(b_i);
  wire [H+3*D:0] z0;
  wire [U+3*D:0] z1;

  residue_mac_chain #(.DigitBits(D), .ABits(H), .CBits(T + 1)) u_chain0 (
      .clk, .a_i(a_i[H-1:0]), .d_i(H'(0)), .c_i({1'b0, t0_i}), .clear_c_i(clear_t_i), .b_i(b),
      .load_b_i(load_b), .z_lo_o(z0[2*D-1:0]), .z_hi_o(z0[H+3*D:2*D])
  );
  residue_mac_chain #(.DigitBits(D), .ABits(U), .CBits(T + 1)) u_chain1 (
      .clk, .a_i(a_i[W-1:H]), .d_i(U'(0)), .c_i({1'b0, t1_i}), .clear_c_i(clear_t_i), .b_i(b),
      .load_b_i(load_b), .z_lo_o(z1[2*D-1:0]), .z_hi_o(z1[U+3*D:2*D])
  );

  // Slices by weight, all of one word (6 cycles after its a).
  wire [H-1:0] z0_word_lo = z0[H-1:0];
  wire [U-1:0] z0_word_hi = z0[W-1:H];
  wire [H-1:0] z0_next    = z0[W+:H];
  wire [U-1:0] z1_word_hi = z1[U-1:0];
  wire [H-1:0] z1_next_lo = z1[W-1:U];
  wire [U-1:0] z1_next_hi = z1[W+:U];

  logic [H:0] next_lo_q;
  logic [U-1:0] next_hi_q, prev_hi_q;
  logic [U:0] word_hi_q;
  logic [T-1:0] s0_q;
  wire cut = first_q[4];                        // the next word is a first one
  wire carry = DropFirst & first_q[6] & word_hi_q[U];  // the previous word was a first one

  always_ff @(posedge clk) begin
    next_lo_q <= cut ? '0 : (H + 1)'(z0_next) + (H + 1)'(z1_next_lo);
    next_hi_q <= cut ? '0 : z1_next_hi;
    prev_hi_q <= next_hi_q;
    word_hi_q <= (U + 1)'(z0_word_hi) + (U + 1)'(z1_word_hi);
    s0_q      <= T'(z0_word_lo) + T'(next_lo_q) + T'(carry);
    s0_o      <= s0_q;
    s1_o      <= T'(word_hi_q) + T'(prev_hi_q);
  end

endmodule

`default_nettype wire
