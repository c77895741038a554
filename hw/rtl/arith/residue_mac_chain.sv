// Half word by word: a cascade of three DSP slices and the registers behind it.
//
//   z = c + a * b          Difference = 0
//   z = c + (d - a) * b    Difference = 1
//
// z = {z_hi_o, z_lo_o}; b = {digit 2, digit 1, digit 0}, digits of weights 2^(i * DigitBits).
//
// Ranges:     a_i, d_i [0, 2^ABits); digits [0, 2^DigitBits), with Difference two's complement of
//             one bit more; c_i and z two's complement.
// Latency:    6 cycles from a_i (7 with Difference, d_i likewise); c_i and clear_c_i stand one
//             cycle after their a_i (two with Difference). Independent of data.
// Throughput: one product a cycle. b_i is loaded with the first a_i of its operand (a cycle later
//             with Difference): load_b_i[0]; load_b_i[1] and [2] are the same flag 1 and 2 cycles
//             later. Loads are at least 2 cycles apart.
// Cost:       3 DSP48; no LUT (4 * DigitBits + ABits flip-flops, 3 * ABits more with Difference).
// Source:     schoolbook, low digit of each partial sum leaves the cascade (P >> DigitBits).
`default_nettype none

module residue_mac_chain #(
    parameter int unsigned DigitBits = 17,
    parameter int unsigned ABits = 26,
    parameter int unsigned CBits = 29,
    parameter bit Difference = 1'b0,
    localparam int unsigned BBits = DigitBits + 32'(Difference),
    localparam int unsigned HiBits = ABits + DigitBits + 1
) (
    input  wire                    clk,
    input  wire  [      ABits-1:0] a_i,
    input  wire  [      ABits-1:0] d_i,  // used with Difference
    input  wire  [      CBits-1:0] c_i,
    input  wire                    clear_c_i,
    input  wire  [    3*BBits-1:0] b_i,
    input  wire  [            2:0] load_b_i,
    output logic [2*DigitBits-1:0] z_lo_o,
    output logic [     HiBits-1:0] z_hi_o
);

  localparam int unsigned MBits = ABits + DigitBits;
  localparam int unsigned PBits = (MBits > CBits ? MBits : CBits) + 2;

  wire [ABits-1:0] a0, a1;
  logic [ABits-1:0] d1_q, d2_q;
  wire [PBits-1:0] cas0, cas1, p0, p1, p2;

  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b1),
      .TwoStageB(1'b0), .Difference(Difference)
  ) u_dsp0 (
      .clk, .a_i, .a_cas_i(ABits'(0)), .a_cas_o(a0), .d_i, .b_i(b_i[0+:BBits]), .ce_b1_i(1'b0),
      .ce_b2_i(load_b_i[0]), .c_i, .clear_c_i, .p_cas_i(PBits'(0)), .p_cas_o(cas0), .p_o(p0)
  );
  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b0),
      .TwoStageB(1'b1), .Difference(Difference)
  ) u_dsp1 (
      .clk, .a_i(ABits'(0)), .a_cas_i(a0), .a_cas_o(a1), .d_i(d1_q), .b_i(b_i[BBits+:BBits]),
      .ce_b1_i(load_b_i[0]), .ce_b2_i(load_b_i[1]), .c_i(CBits'(0)), .clear_c_i(1'b0),
      .p_cas_i(cas0), .p_cas_o(cas1), .p_o(p1)
  );
  residue_dsp #(
      .DigitBits(DigitBits), .ABits(ABits), .CBits(CBits), .PBits(PBits), .Head(1'b0),
      .TwoStageB(1'b1), .Difference(Difference)
  ) u_dsp2 (
      .clk, .a_i(ABits'(0)), .a_cas_i(a1), .a_cas_o(), .d_i(d2_q), .b_i(b_i[2*BBits+:BBits]),
      .ce_b1_i(load_b_i[0]), .ce_b2_i(load_b_i[2]), .c_i(CBits'(0)), .clear_c_i(1'b0),
      .p_cas_i(cas1), .p_cas_o(), .p_o(p2)
  );

  // Digit 0 of the sum leaves two cycles before the high part, digit 1 one cycle before it.
  // Flip-flops by intent: beside a DSP column LUTs run out first.
  (* keep, shreg_extract = "no" *) logic [DigitBits-1:0] low0_q;
  (* keep, shreg_extract = "no" *) logic [2*DigitBits-1:0] low1_q;
  always_ff @(posedge clk) begin
    d1_q   <= d_i;
    d2_q   <= d1_q;
    low0_q <= p0[DigitBits-1:0];
    low1_q <= {p1[DigitBits-1:0], low0_q};
    z_lo_o <= low1_q;
    z_hi_o <= p2[HiBits-1:0];
  end

endmodule

`default_nettype wire
