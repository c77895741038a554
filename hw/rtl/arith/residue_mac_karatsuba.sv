// Word by word: one step of a multiword sum t + a*b in redundant words of two digits, a Karatsuba
// step inside each word.
//
//   sum_j s_j * 2^(V*j) = sum_j (t_j + a_j * b) * 2^(V*j),   V = 2 * WordBits
//
// With X = 2^WordBits, a = a1*X + a0, b = b1*X + b0:
//
//   x = a0*b0,  y = a1*b1,  z = (a1 - a0) * (b0 - b1),   a*b = x + (x + y + z)*X + y*X^2
//
// a1 - a0 is the pre-adder of the slices, half by half; b0 - b1 is taken digit by digit, so neither
// has a carry to wait for. A half of a (H bits) times a digit of b is a cascade; its result is cut
// into limbs of H bits, x0 (weight 1) .. x3, likewise y and z, where z2 and z3 may be negative. A
// word is four limbs of weights 2^(H*i). With `prev` the previous word's value the limbs are
//
//   s0 = x0 + y2prev + (x2 + y0 + z2)prev        s2 = s0' + x2 + y0 + z0,   s0' = x0 + y2prev
//   s1 = x1 + y3prev + (x3 + y1 + z3)prev        s3 = s1' + x3 + y1 + z1,   s1' = x1 + y3prev
//
// and carries go from x1 to s2, to s3, to the next word's s0 and to its s1, where they end: s1 alone
// keeps what is above its H bits. Thus no limb is negative, and a number below 2^(V*count) has
// nothing but zeros from word `count` on. The first word has no `prev`: it is exact, and is the
// quotient digit of a Montgomery step.
//
// t is sent as {t3 - t1, t2 - t0, t1, t0}: what the cascades of x take in through C appears in the
// middle part x + y + z too, and the C inputs of z take it out again.
//
// Ranges:     a_i, b_i [0, 2^V); t0, t2, t3 [0, 2^H), t1 [0, 2^(H+3)), differences two's complement
//             of H + 1 and H + 4 bits; s likewise. WordBits even, 6 to 50.
// Latency:    12 cycles from a_i to the lower limbs and quotient_o, 13 to the upper ones. t: lower
//             limbs one cycle after their a, upper ones two. Independent of data.
// Throughput: one word a cycle; an operand's first word is marked by first_i, takes b_i with it and
//             cuts the carries of what went before. The word after the last one must be zero.
// Cost:       18 DSP48E2; about 590 LUT. Adders of at most H + 4 bits, no carry loop.
// Source:     Karatsuba and Ofman 1962, subtractive form; AMD UG579 (pre-adder D - A).
// Not for:    DSP48E1 (its pre-adder and multiplier are narrower).
`default_nettype none

module residue_mac_karatsuba #(
    parameter int unsigned WordBits = 50,
    localparam int unsigned W = WordBits,
    localparam int unsigned H = W / 2,
    localparam int unsigned LowerBits = 2 * H + 3,
    localparam int unsigned UpperBits = 2 * H + 5
) (
    input  wire                  clk,
    input  wire  [      2*W-1:0] a_i,
    input  wire  [      2*W-1:0] b_i,         // with first_i
    input  wire                  first_i,     // with the first a_i of an operand
    input  wire  [LowerBits-1:0] t_lower_i,   // one cycle after a_i
    input  wire  [UpperBits-1:0] t_upper_i,   // two cycles after a_i
    input  wire                  clear_t_i,   // with t_lower_i: takes t as zero
    output logic [LowerBits-1:0] s_lower_o,
    output logic [UpperBits-1:0] s_upper_o,   // one cycle after s_lower_o
    output logic [      2*W-1:0] quotient_o,  // with s_lower_o, of a first word
    output logic                 first_o      // with the first s_lower_o
);

  localparam int unsigned D = W < 35 ? (W + 2) / 3 : 17;  // as in residue_mac_word
  localparam int unsigned T = H + 4;
  localparam int unsigned ZBits = H + 3 * D + 1;

  if (W % 2 != 0 || W < 6 || W > 50) begin : g_illegal
    $error("residue_mac_karatsuba: WordBits must be even, 6 to 50");
  end

  // first_q[n]: first_i, n + 1 cycles ago.
  logic [11:0] first_q;
  always_ff @(posedge clk) first_q <= {first_q[10:0], first_i};
  assign first_o = first_q[11];

  // ---- six cascades; those of z are one cycle behind
  wire [3*D-1:0] b0 = (3 * D)'(b_i[W-1:0]);
  wire [3*D-1:0] b1 = (3 * D)'(b_i[2*W-1:W]);
  wire [2:0] load = {first_q[1:0], first_i};
  logic [3*(D+1)-1:0] b_difference_q;
  logic clear_t_q;
  always_ff @(posedge clk) begin
    for (int unsigned i = 0; i < 3; i++)
      b_difference_q[i*(D+1)+:D+1] <= {1'b0, b0[i*D+:D]} - {1'b0, b1[i*D+:D]};
    clear_t_q <= clear_t_i;
  end

  wire [1:0][T-1:0] t_x = {1'b0, t_lower_i[H+:H+3], 4'b0000, t_lower_i[H-1:0]};
  wire [1:0][T-1:0] t_z = {t_upper_i[H+1+:T], {3{t_upper_i[H]}}, t_upper_i[H:0]};
  wire [1:0][ZBits-1:0] x, y, z;  // of each half of a
  for (genvar h = 0; h < 2; h++) begin : g_half
    residue_mac_chain #(.DigitBits(D), .ABits(H), .CBits(T)) u_x (
        .clk, .a_i(a_i[h*H+:H]), .d_i(H'(0)), .c_i(t_x[h]), .clear_c_i(clear_t_i), .b_i(b0),
        .load_b_i(load), .z_lo_o(x[h][2*D-1:0]), .z_hi_o(x[h][ZBits-1:2*D])
    );
    residue_mac_chain #(.DigitBits(D), .ABits(H), .CBits(T)) u_y (
        .clk, .a_i(a_i[W+h*H+:H]), .d_i(H'(0)), .c_i(T'(0)), .clear_c_i(1'b0), .b_i(b1),
        .load_b_i(load), .z_lo_o(y[h][2*D-1:0]), .z_hi_o(y[h][ZBits-1:2*D])
    );
    residue_mac_chain #(.DigitBits(D), .ABits(H), .CBits(T), .Difference(1'b1)) u_z (
        .clk, .a_i(a_i[h*H+:H]), .d_i(a_i[W+h*H+:H]), .c_i(t_z[h]), .clear_c_i(clear_t_q),
        .b_i(b_difference_q), .load_b_i(first_q[2:0]), .z_lo_o(z[h][2*D-1:0]),
        .z_hi_o(z[h][ZBits-1:2*D])
    );
  end

  // ---- limbs; the number in a name: cycles after a_i
  logic [H-1:0] x0_7, x3_7, y0_7, y3_7, y3_8, z0_8, s2_11, s0_12, s2_12, s3_12;
  logic [H:0] x1_7, x2_7, y1_7, y2_7, y2_8, low1_8, low1_9;
  logic [H+1:0] low0_8, low0_9, mid0_8, mid1_8, z1_8, g0_9;
  // Modulo 2^(H+3): negative at times before the carry, and below 2^(H+3) after it.
  logic [H+2:0] z2_8, z3_8, h0_9, h1_9, h0_prev_9, h1_prev_9, sum0_10, sum0_11, sum1_10, sum1_11;
  logic [H+2:0] g1_9, sum2_10, sum3_10, sum3_11, s1_12;
  logic [T-1:0] upper1_13;
  logic [H:0] upper0_12, upper0_13;
  logic carry1_8;

  always_ff @(posedge clk) begin
    x0_7 <= x[0][0+:H];
    x1_7 <= (H + 1)'(x[0][H+:H]) + (H + 1)'(x[1][0+:H]);
    x2_7 <= (H + 1)'(x[0][2*H+:H]) + (H + 1)'(x[1][H+:H]);
    x3_7 <= x[1][2*H+:H];
    y0_7 <= y[0][0+:H];
    y1_7 <= (H + 1)'(y[0][H+:H]) + (H + 1)'(y[1][0+:H]);
    y2_7 <= (H + 1)'(y[0][2*H+:H]) + (H + 1)'(y[1][H+:H]);
    y3_7 <= y[1][2*H+:H];

    y2_8     <= first_q[5] ? '0 : y2_7;
    y3_8     <= first_q[5] ? '0 : y3_7;
    low0_8   <= (H + 2)'(x0_7) + (H + 2)'(y2_8);
    low1_8   <= (H + 1)'(x1_7[H-1:0]) + (H + 1)'(y3_8);
    carry1_8 <= x1_7[H];  // to s2, and with x1 to s3
    mid0_8   <= (H + 2)'(x2_7) + (H + 2)'(y0_7);
    mid1_8   <= (H + 2)'(x3_7) + (H + 2)'(y1_7);
    z0_8     <= z[0][0+:H];
    z1_8     <= (H + 2)'({x1_7[H], z[0][H+:H]}) + (H + 2)'(z[1][0+:H]);
    z2_8     <= (H + 3)'($signed(z[0][3*H:2*H])) + (H + 3)'(z[1][H+:H]);
    z3_8     <= (H + 3)'($signed(z[1][3*H:2*H]));

    low0_9    <= low0_8;
    low1_9    <= low1_8;
    g0_9      <= mid0_8 + (H + 2)'(z0_8) + (H + 2)'(carry1_8);
    g1_9      <= (H + 3)'(mid1_8) + (H + 3)'(z1_8);
    h0_9      <= (H + 3)'(mid0_8) + z2_8;
    h1_9      <= (H + 3)'(mid1_8) + z3_8;
    h0_prev_9 <= first_q[7] ? '0 : h0_9;
    h1_prev_9 <= first_q[7] ? '0 : h1_9;

    sum0_10 <= (H + 3)'(low0_9) + h0_prev_9;
    sum1_10 <= (H + 3)'(low1_9) + h1_prev_9;
    sum2_10 <= (H + 3)'(g0_9) + (H + 3)'(low0_9);
    sum3_10 <= g1_9 + (H + 3)'(low1_9);

    // Carries: from s2 to s3, from the previous word's s3 to s0, ...
    s2_11   <= sum2_10[H-1:0];
    sum3_11 <= sum3_10 + (H + 3)'(sum2_10[H+2:H]);
    sum0_11 <= sum0_10 + (first_q[9] ? '0 : (H + 3)'(sum3_11[H+2:H]));
    sum1_11 <= sum1_10;

    // ... from s0 to s1.
    s0_12     <= sum0_11[H-1:0];
    s1_12     <= sum1_11 + (H + 3)'(sum0_11[H+2:H]);
    s2_12     <= s2_11;
    s3_12     <= sum3_11[H-1:0];
    upper0_12 <= (H + 1)'(s2_11) - (H + 1)'(sum0_11[H-1:0]);
    upper0_13 <= upper0_12;
    upper1_13 <= T'(s3_12) - T'(s1_12);
  end

  assign s_lower_o  = {s1_12, s0_12};
  assign s_upper_o  = {upper1_13, upper0_13};
  assign quotient_o = {s3_12, s2_12, s1_12[H-1:0], s0_12};

endmodule

`default_nettype wire
