// One DSP slice: registered multiply-add at one stage of a cascade.
//
//   p_o = a * b + (Head ? c_i : p_cas_i >> DigitBits)
//
// Ranges:   a_i [0, 2^ABits), b_i [0, 2^DigitBits), c_i [0, 2^CBits); p_o < 2^PBits must be
//           ensured by the user.
// Latency:  a_i 3 cycles to p_o, c_i 2, p_cas_i 1 (all registers of the slice in use); a_cas_o is
//           a_i one cycle later, the next stage's a_cas_i. Independent of data.
// Digit:    b_i enters the slice's second B register at ce_b2_i; with TwoStageB through the first
//           one, loaded at ce_b1_i. It stays until loaded again.
// Cost:     1 DSP48E2, no fabric.
// Source:   AMD UG579 (DSP48E2): OPMODE, cascade and shift by 17.
//
// With RESIDUE_DSP48E2 defined it is the primitive itself (synthesis; inference loses the cascade
// as soon as C is used), else a behavioural model of the same registers.
`default_nettype none

module residue_dsp #(
    parameter int unsigned DigitBits = 17,
    parameter int unsigned ABits = 26,
    parameter int unsigned CBits = 28,
    parameter int unsigned PBits = 44,
    parameter bit Head = 1'b1,
    parameter bit TwoStageB = 1'b0
) (
    input  wire                  clk,
    input  wire  [    ABits-1:0] a_i,        // used at the head of a cascade
    input  wire  [    ABits-1:0] a_cas_i,    // used behind it
    output logic [    ABits-1:0] a_cas_o,
    input  wire  [DigitBits-1:0] b_i,
    input  wire                  ce_b1_i,
    input  wire                  ce_b2_i,
    input  wire  [    CBits-1:0] c_i,        // used at the head
    input  wire                  clear_c_i,  // takes c_i as zero
    input  wire  [    PBits-1:0] p_cas_i,    // used behind the head
    output logic [    PBits-1:0] p_cas_o,    // p_o on the dedicated wires between slices
    output logic [    PBits-1:0] p_o
);

  if (ABits > 26 || DigitBits > 17 || CBits > 47 || PBits > 47) begin : g_illegal
    $error("residue_dsp: operands do not fit a DSP48E2");
  end

`ifdef RESIDUE_DSP48E2
  if (DigitBits != 17) begin : g_shift
    $error("residue_dsp: the cascade of a DSP48E2 shifts by 17 bits");
  end

  wire [29:0] acout;
  wire [47:0] p, pcout;
  DSP48E2 #(
      .A_INPUT(Head ? "DIRECT" : "CASCADE"),
      .AREG(1), .ACASCREG(1), .ADREG(0), .DREG(0),
      .BREG(TwoStageB ? 2 : 1), .BCASCREG(TwoStageB ? 2 : 1),
      .CREG(1), .MREG(1), .PREG(1),
      .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0), .INMODEREG(0), .OPMODEREG(0)
  ) u_dsp (
      .CLK(clk),
      .A(30'(a_i)), .ACIN(30'(a_cas_i)), .ACOUT(acout), .CEA1(1'b1), .CEA2(1'b1), .RSTA(1'b0),
      .B(18'(b_i)), .BCIN(18'd0), .BCOUT(), .CEB1(ce_b1_i), .CEB2(ce_b2_i), .RSTB(1'b0),
      .C(48'(c_i)), .CEC(1'b1), .RSTC(clear_c_i),
      .D(27'd0), .CED(1'b0), .CEAD(1'b0), .RSTD(1'b0),
      .INMODE(5'd0), .CEINMODE(1'b0), .RSTINMODE(1'b0),
      .ALUMODE(4'd0), .CEALUMODE(1'b0), .RSTALUMODE(1'b0),
      .OPMODE(Head ? 9'b00_011_01_01 : 9'b00_101_01_01), .CECTRL(1'b0), .RSTCTRL(1'b0),
      .CARRYIN(1'b0), .CARRYINSEL(3'd0), .CECARRYIN(1'b0), .RSTALLCARRYIN(1'b0),
      .CARRYCASCIN(1'b0), .CARRYCASCOUT(), .MULTSIGNIN(1'b0), .MULTSIGNOUT(),
      .CEM(1'b1), .RSTM(1'b0), .CEP(1'b1), .RSTP(1'b0),
      .P(p), .PCIN(48'(p_cas_i)), .PCOUT(pcout),
      .OVERFLOW(), .UNDERFLOW(), .PATTERNDETECT(), .PATTERNBDETECT(), .XOROUT()
  );
  assign a_cas_o = acout[ABits-1:0];
  assign p_cas_o = pcout[PBits-1:0];
  assign p_o     = p[PBits-1:0];
`else
  logic [ABits-1:0] a_q;
  logic [DigitBits-1:0] b1_q, b2_q;
  logic [ABits+DigitBits-1:0] m_q;
  logic [PBits-1:0] p_q;

  always_ff @(posedge clk) begin
    a_q <= Head ? a_i : a_cas_i;
    m_q <= (ABits + DigitBits)'(a_q) * (ABits + DigitBits)'(b2_q);
    if (ce_b1_i) b1_q <= b_i;
    if (ce_b2_i) b2_q <= TwoStageB ? b1_q : b_i;
  end

  if (Head) begin : g_head
    logic [CBits-1:0] c_q;
    always_ff @(posedge clk) begin
      c_q <= clear_c_i ? '0 : c_i;
      p_q <= PBits'(m_q) + PBits'(c_q);
    end
  end else begin : g_cascade
    always_ff @(posedge clk) p_q <= PBits'(m_q) + (p_cas_i >> DigitBits);
  end

  assign a_cas_o = a_q;
  assign p_cas_o = p_q;
  assign p_o     = p_q;
`endif

endmodule

`default_nettype wire
