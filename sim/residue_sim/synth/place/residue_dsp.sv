// Lattice ECP5 stand-in for residue_dsp: a MULT18X18D with the adder of the slice in fabric.
//
//   p_o = a * b + (Head ? c_i : p_cas_i >> DigitBits)
//
// Ports, parameters and latencies are those of hw/rtl/arith/residue_dsp.sv. The A, B and M registers
// are the multiplier's own; where the cascade needs A too, it stands in fabric a second time.
// For place and route of one element alone: an ECP5 has no 26-bit multiplier, so ABits <= 18.
`default_nettype none

module residue_dsp #(
    parameter int unsigned DigitBits = 17,
    parameter int unsigned ABits = 18,
    parameter int unsigned CBits = 21,
    parameter int unsigned PBits = 37,
    parameter bit Head = 1'b1,
    parameter bit TwoStageB = 1'b0,
    parameter bit Difference = 1'b0,
    localparam int unsigned BBits = DigitBits + 32'(Difference)
) (
    input  wire              clk,
    input  wire  [ABits-1:0] a_i,
    input  wire  [ABits-1:0] a_cas_i,
    output logic [ABits-1:0] a_cas_o,
    input  wire  [ABits-1:0] d_i,
    input  wire  [BBits-1:0] b_i,
    input  wire              ce_b1_i,
    input  wire              ce_b2_i,
    input  wire  [CBits-1:0] c_i,
    input  wire              clear_c_i,
    input  wire  [PBits-1:0] p_cas_i,
    output logic [PBits-1:0] p_cas_o,
    output logic [PBits-1:0] p_o
);

  if (ABits > 18 || DigitBits > 17 || Difference) begin : g_illegal
    $error("residue_dsp: operands do not fit a MULT18X18D");
  end

  logic [ABits-1:0] a_q;
  logic [BBits-1:0] b1_q;
  logic signed [PBits-1:0] c_q, p_q;
  wire [17:0] a = 18'(Head ? a_i : a_cas_i);
  wire [17:0] b = 18'(TwoStageB ? b1_q : b_i);
  wire [35:0] m;

  MULT18X18D #(
      .REG_INPUTA_CLK("CLK0"), .REG_INPUTA_CE("CE0"), .REG_INPUTA_RST("RST0"),
      .REG_INPUTB_CLK("CLK0"), .REG_INPUTB_CE("CE1"), .REG_INPUTB_RST("RST0"),
      .REG_OUTPUT_CLK("CLK0"), .REG_OUTPUT_CE("CE0"), .REG_OUTPUT_RST("RST0")
  ) u_mult (
      .CLK0(clk), .CE0(1'b1), .CE1(ce_b2_i), .RST0(1'b0),
      .SIGNEDA(1'b0), .SIGNEDB(1'b0), .SOURCEA(1'b0), .SOURCEB(1'b0),
      .A0(a[0]), .A1(a[1]), .A2(a[2]), .A3(a[3]), .A4(a[4]), .A5(a[5]),
      .A6(a[6]), .A7(a[7]), .A8(a[8]), .A9(a[9]), .A10(a[10]), .A11(a[11]),
      .A12(a[12]), .A13(a[13]), .A14(a[14]), .A15(a[15]), .A16(a[16]), .A17(a[17]),
      .B0(b[0]), .B1(b[1]), .B2(b[2]), .B3(b[3]), .B4(b[4]), .B5(b[5]),
      .B6(b[6]), .B7(b[7]), .B8(b[8]), .B9(b[9]), .B10(b[10]), .B11(b[11]),
      .B12(b[12]), .B13(b[13]), .B14(b[14]), .B15(b[15]), .B16(b[16]), .B17(b[17]),
      .P0(m[0]), .P1(m[1]), .P2(m[2]), .P3(m[3]), .P4(m[4]), .P5(m[5]),
      .P6(m[6]), .P7(m[7]), .P8(m[8]), .P9(m[9]), .P10(m[10]), .P11(m[11]),
      .P12(m[12]), .P13(m[13]), .P14(m[14]), .P15(m[15]), .P16(m[16]), .P17(m[17]),
      .P18(m[18]), .P19(m[19]), .P20(m[20]), .P21(m[21]), .P22(m[22]), .P23(m[23]),
      .P24(m[24]), .P25(m[25]), .P26(m[26]), .P27(m[27]), .P28(m[28]), .P29(m[29]),
      .P30(m[30]), .P31(m[31]), .P32(m[32]), .P33(m[33]), .P34(m[34]), .P35(m[35])
  );

  always_ff @(posedge clk) begin
    a_q <= Head ? a_i : a_cas_i;
    if (ce_b1_i) b1_q <= b_i;
    p_q <= $signed(PBits'(m)) + c_q;
  end

  if (Head) begin : g_head
    always_ff @(posedge clk) c_q <= clear_c_i ? '0 : PBits'($signed(c_i));
  end else begin : g_cascade
    assign c_q = $signed(p_cas_i) >>> DigitBits;
  end

  assign a_cas_o = a_q;
  assign p_cas_o = p_q;
  assign p_o     = p_q;

endmodule

`default_nettype wire
