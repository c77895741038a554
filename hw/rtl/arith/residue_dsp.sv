// One DSP slice: registered multiply-add at one stage of a cascade.
//
//   p_o = a * b + (Head ? c_i : p_cas_i >> DigitBits)                 Difference = 0
//   p_o = (d_i - a) * b + (Head ? c_i : p_cas_i >> DigitBits)         Difference = 1
//
// Ranges:   a_i, d_i [0, 2^ABits); b_i [0, 2^DigitBits), with Difference two's complement of one
//           bit more; c_i, p_cas_i and p_o two's complement, the user keeps p_o within PBits.
// Latency:  a_i 3 cycles to p_o (4 with Difference, d_i likewise), c_i 2, p_cas_i 1 (all registers
//           of the slice in use); a_cas_o is a_i one cycle later, the next stage's a_cas_i.
//           Independent of data.
// Digit:    b_i enters the slice's second B register at ce_b2_i; with TwoStageB through the first
//           one, loaded at ce_b1_i. It stays until loaded again.
// Cost:     1 DSP48E2 or DSP48E1, no fabric.
// Source:   AMD UG579 (DSP48E2), UG479 (DSP48E1): OPMODE, pre-adder, cascade and shift by 17.
//
// With RESIDUE_DSP48E2 or RESIDUE_DSP48E1 defined it is the primitive itself (synthesis; inference
// loses the cascade as soon as C is used), else a behavioural model of the same registers.
`default_nettype none

module residue_dsp #(
    parameter int unsigned DigitBits = 17,
    parameter int unsigned ABits = 24,  // 26 on DSP48E2
    parameter int unsigned CBits = 29,
    parameter int unsigned PBits = 45,
    parameter bit Head = 1'b1,
    parameter bit TwoStageB = 1'b0,
    parameter bit Difference = 1'b0,
    localparam int unsigned BBits = DigitBits + 32'(Difference)
) (
    input  wire              clk,
    input  wire  [ABits-1:0] a_i,        // used at the head of a cascade
    input  wire  [ABits-1:0] a_cas_i,    // used behind it
    output logic [ABits-1:0] a_cas_o,
    input  wire  [ABits-1:0] d_i,        // used with Difference
    input  wire  [BBits-1:0] b_i,
    input  wire              ce_b1_i,
    input  wire              ce_b2_i,
    input  wire  [CBits-1:0] c_i,        // used at the head
    input  wire              clear_c_i,  // takes c_i as zero
    input  wire  [PBits-1:0] p_cas_i,    // used behind the head
    output logic [PBits-1:0] p_cas_o,    // p_o on the dedicated wires between slices
    output logic [PBits-1:0] p_o
);

`ifdef RESIDUE_DSP48E1
  localparam int unsigned WidestA = 24;
`else
  localparam int unsigned WidestA = 26;
`endif
  if (ABits > WidestA || DigitBits > 17 || CBits > PBits || PBits > 48) begin : g_illegal
    $error("residue_dsp: operands do not fit the slice");
  end

`ifdef RESIDUE_DSP48E2
  `define RESIDUE_DSP_PRIMITIVE DSP48E2
  `define RESIDUE_DSP_D_BITS 27
`elsif RESIDUE_DSP48E1
  `define RESIDUE_DSP_PRIMITIVE DSP48E1
  `define RESIDUE_DSP_D_BITS 25
`endif

`ifdef RESIDUE_DSP_PRIMITIVE
  if (DigitBits != 17) begin : g_shift
    $error("residue_dsp: the cascade of a slice shifts by 17 bits");
  end

  wire [29:0] acout;
  wire [47:0] p, pcout;
  wire [17:0] b;
  if (Difference) begin : g_signed_b
    assign b = b_i;
  end else begin : g_unsigned_b
    assign b = 18'(b_i);
  end

  `RESIDUE_DSP_PRIMITIVE #(
      .A_INPUT(Head ? "DIRECT" : "CASCADE"),
      .AREG(1), .ACASCREG(1),
`ifdef RESIDUE_DSP48E2
      .AMULTSEL(Difference ? "AD" : "A"),
`else
      .USE_DPORT(Difference ? "TRUE" : "FALSE"),
`endif
      .ADREG(32'(Difference)), .DREG(32'(Difference)),
      .BREG(TwoStageB ? 2 : 1), .BCASCREG(TwoStageB ? 2 : 1),
      .CREG(1), .MREG(1), .PREG(1),
      .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0), .INMODEREG(0), .OPMODEREG(0)
  ) u_dsp (
      .CLK(clk),
      .A(30'(a_i)), .ACIN(30'(a_cas_i)), .ACOUT(acout), .CEA1(1'b1), .CEA2(1'b1), .RSTA(1'b0),
      .B(b), .BCIN(18'd0), .BCOUT(), .CEB1(ce_b1_i), .CEB2(ce_b2_i), .RSTB(1'b0),
      .C(48'($signed(c_i))), .CEC(1'b1), .RSTC(clear_c_i),
      .D(`RESIDUE_DSP_D_BITS'(d_i)), .CED(Difference), .CEAD(Difference), .RSTD(1'b0),
      .INMODE(Difference ? 5'b01100 : 5'b00000), .CEINMODE(1'b0), .RSTINMODE(1'b0),
      .ALUMODE(4'd0), .CEALUMODE(1'b0), .RSTALUMODE(1'b0),
`ifdef RESIDUE_DSP48E2
      .OPMODE(Head ? 9'b00_011_01_01 : 9'b00_101_01_01),
      .XOROUT(),
`else
      .OPMODE(Head ? 7'b011_01_01 : 7'b101_01_01),
`endif
      .CECTRL(1'b0), .RSTCTRL(1'b0),
      .CARRYIN(1'b0), .CARRYINSEL(3'd0), .CECARRYIN(1'b0), .RSTALLCARRYIN(1'b0),
      .CARRYCASCIN(1'b0), .CARRYCASCOUT(), .MULTSIGNIN(1'b0), .MULTSIGNOUT(),
      .CEM(1'b1), .RSTM(1'b0), .CEP(1'b1), .RSTP(1'b0),
      .P(p), .CARRYOUT(), .PCIN(48'($signed(p_cas_i))), .PCOUT(pcout),
      .OVERFLOW(), .UNDERFLOW(), .PATTERNDETECT(), .PATTERNBDETECT()
  );
  assign a_cas_o = acout[ABits-1:0];
  assign p_cas_o = pcout[PBits-1:0];
  assign p_o     = p[PBits-1:0];
  `undef RESIDUE_DSP_PRIMITIVE
  `undef RESIDUE_DSP_D_BITS
`else
  logic [ABits-1:0] a_q;
  logic [BBits-1:0] b1_q, b2_q;
  logic signed [ABits:0] operand;  // of the multiplier
  wire signed [DigitBits:0] digit;
  logic signed [PBits-1:0] m_q, c_q, p_q;

  always_ff @(posedge clk) begin
    a_q <= Head ? a_i : a_cas_i;
    m_q <= PBits'(operand) * PBits'(digit);
    if (ce_b1_i) b1_q <= b_i;
    if (ce_b2_i) b2_q <= TwoStageB ? b1_q : b_i;
  end

  if (Difference) begin : g_difference
    logic [ABits-1:0] d_q;
    always_ff @(posedge clk) begin
      d_q     <= d_i;
      operand <= $signed({1'b0, d_q}) - $signed({1'b0, a_q});
    end
    assign digit = b2_q;
  end else begin : g_plain
    assign operand = {1'b0, a_q};
    assign digit   = {1'b0, b2_q};
  end

  if (Head) begin : g_head
    always_ff @(posedge clk) begin
      c_q <= clear_c_i ? '0 : PBits'($signed(c_i));
      p_q <= m_q + c_q;
    end
  end else begin : g_cascade
    assign c_q = $signed(p_cas_i) >>> DigitBits;
    always_ff @(posedge clk) p_q <= m_q + c_q;
  end

  assign a_cas_o = a_q;
  assign p_cas_o = p_q;
  assign p_o     = p_q;
`endif

endmodule

`default_nettype wire
