// Half word by word: a cascade of three DSP slices and the registers behind it.
//
//   z = c + a * b,   z = {z_hi_o, z_lo_o},   b = {digit 2, digit 1, digit 0}
//
// Ranges:     a_i [0, 2^ABits), c_i [0, 2^CBits) with CBits < W = 3 * DigitBits, b_i [0, 2^W);
//             z < 2^(W + ABits).
// Latency:    6 cycles from a_i, 5 from c_i and clear_c_i (c_i stands one cycle after its a_i).
//             Independent of data.
// Throughput: one product a cycle. b_i is loaded with the first a_i of its operand
//             (load_b_i[0]); load_b_i[1] and [2] are the same flag 1 and 2 cycles later. Loads are
//             at least 2 cycles apart.
// Cost:       3 DSP48E2, no LUT but for the shift register of the low digits.
// Source:     schoolbook, low digit of each partial sum leaves the cascade (P >> DigitBits).
`default_nettype none

module residue_mac_chain #(
    parameter int unsigned DigitBits = 17,
    parameter int unsigned ABits = 26,
    parameter int unsigned CBits = 28
) (
    input  wire                        clk,
    input  wire  [          ABits-1:0] a_i,
    input  wire  [          CBits-1:0] c_i,
    input  wire                        clear_c_i,
    input  wire  [    3*DigitBits-1:0] b_i,
    input  wire  [                2:0] load_b_i,
    output logic [    2*DigitBits-1:0] z_lo_o,
    output logic [ABits+DigitBits-1:0] z_hi_o
);

  localparam int unsigned PBits = ABits + DigitBits + 1;

  wire [ABits-1:0] a0, a1;
  wire [PBits-1:0] cas0, cas1, p0, p1, p2;

  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b1),
      .TwoStageB(1'b0)
  ) u_dsp0 (
      .clk, .a_i, .a_cas_i(ABits'(0)), .a_cas_o(a0), .b_i(b_i[DigitBits-1:0]), .ce_b1_i(1'b0),
      .ce_b2_i(load_b_i[0]), .c_i, .clear_c_i, .p_cas_i(PBits'(0)), .p_cas_o(cas0), .p_o(p0)
  );
  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b0),
      .TwoStageB(1'b1)
  ) u_dsp1 (
      .clk, .a_i(ABits'(0)), .a_cas_i(a0), .a_cas_o(a1), .b_i(b_i[2*DigitBits-1:DigitBits]),
      .ce_b1_i(load_b_i[0]), .ce_b2_i(load_b_i[1]), .c_i(CBits'(0)), .clear_c_i(1'b0),
      .p_cas_i(cas0), .p_cas_o(cas1), .p_o(p1)
  );
  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b0),
      .TwoStageB(1'b1)
  ) u_dsp2 (
      .clk, .a_i(ABits'(0)), .a_cas_i(a1), .a_cas_o(), .b_i(b_i[3*DigitBits-1:2*DigitBits]),
      .ce_b1_i(load_b_i[0]), .ce_b2_i(load_b_i[2]), .c_i(CBits'(0)), .clear_c_i(1'b0),
      .p_cas_i(cas1), .p_cas_o(), .p_o(p2)
  );

  // Digit 0 of the sum leaves two cycles before the high part, digit 1 one cycle before it.
  logic [DigitBits-1:0] low0_q;
  logic [2*DigitBits-1:0] low1_q;
  always_ff @(posedge clk) begin
    low0_q <= p0[DigitBits-1:0];
    low1_q <= {p1[DigitBits-1:0], low0_q};
    z_lo_o <= low1_q;
    z_hi_o <= p2[ABits+DigitBits-1:0];
  end

endmodule

`default_nettype wire
