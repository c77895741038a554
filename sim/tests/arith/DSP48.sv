// Model of the DSP48E2, or with RESIDUE_DSP48E1 the DSP48E1, registers and paths that residue_dsp
// uses, written from AMD UG579 and UG479: A, B, C, M and P registers with their enables and resets,
// A and P cascades, the pre-adder D - A, and the OPMODEs M + C and M + (PCIN >> 17). Anything else
// stops the simulation. Bench only; synthesis has the primitive.
`default_nettype none

/* verilator lint_off DECLFILENAME */
/* verilator lint_off UNUSEDSIGNAL */
/* verilator lint_off UNUSEDPARAM */
/* verilator lint_off UNDRIVEN */
`ifdef RESIDUE_DSP48E1
module DSP48E1 #(
    parameter USE_DPORT = "FALSE",
    localparam bit PreAdder = USE_DPORT == "TRUE",
    localparam int DBits = 25, localparam int OpmodeBits = 7,
`else
module DSP48E2 #(
    parameter AMULTSEL = "A",
    localparam bit PreAdder = AMULTSEL == "AD",
    localparam int DBits = 27, localparam int OpmodeBits = 9,
`endif
    parameter A_INPUT = "DIRECT",
    parameter int AREG = 1, parameter int ACASCREG = 1, parameter int ADREG = 1,
    parameter int DREG = 1, parameter int BREG = 1, parameter int BCASCREG = 1,
    parameter int CREG = 1, parameter int MREG = 1, parameter int PREG = 1,
    parameter int ALUMODEREG = 1, parameter int CARRYINREG = 1, parameter int CARRYINSELREG = 1,
    parameter int INMODEREG = 1, parameter int OPMODEREG = 1
) (
    input  wire         CLK,
    input  wire  [29:0] A, ACIN,
    output logic [29:0] ACOUT,
    input  wire         CEA1, CEA2, RSTA,
    input  wire  [17:0] B, BCIN,
    output logic [17:0] BCOUT,
    input  wire         CEB1, CEB2, RSTB,
    input  wire  [47:0] C,
    input  wire         CEC, RSTC,
    input  wire  [DBits-1:0] D,
    input  wire         CED, CEAD, RSTD,
    input  wire  [ 4:0] INMODE,
    input  wire         CEINMODE, RSTINMODE,
    input  wire  [ 3:0] ALUMODE,
    input  wire         CEALUMODE, RSTALUMODE,
    input  wire  [OpmodeBits-1:0] OPMODE,
    input  wire         CECTRL, RSTCTRL,
    input  wire         CARRYIN,
    input  wire  [ 2:0] CARRYINSEL,
    input  wire         CECARRYIN, RSTALLCARRYIN,
    input  wire         CARRYCASCIN,
    output logic        CARRYCASCOUT,
    input  wire         MULTSIGNIN,
    output logic        MULTSIGNOUT,
    input  wire         CEM, RSTM, CEP, RSTP,
    output logic [47:0] P,
    input  wire  [47:0] PCIN,
    output logic [47:0] PCOUT,
    output logic [ 3:0] CARRYOUT,
`ifndef RESIDUE_DSP48E1
    output logic [ 7:0] XOROUT,
`endif
    output logic        OVERFLOW, UNDERFLOW, PATTERNDETECT, PATTERNBDETECT
);

  if (AREG != 1 || ACASCREG != 1 || CREG != 1 || MREG != 1 || PREG != 1) $error("not modelled");
  if (BREG != BCASCREG || ALUMODEREG + INMODEREG + OPMODEREG != 0) $error("not modelled");
  if (CARRYINREG + CARRYINSELREG != 0 || ADREG != DREG) $error("not modelled");

  logic [29:0] a_q;
  logic [17:0] b1_q, b2_q;
  logic [47:0] c_q;
  logic [DBits-1:0] d_q, ad_q;
  wire [DBits-1:0] multiplicand = PreAdder ? ad_q : a_q[DBits-1:0];
  logic signed [DBits+17:0] m_q;

  wire [47:0] m = 48'(m_q);  // sign-extended: M leaves the multiplier as two's complement
  wire [47:0] z = OPMODE[6:4] == 3'b011 ? c_q : 48'($signed(PCIN) >>> 17);

  always_ff @(posedge CLK) begin
    if (RSTA) a_q <= '0;
    else if (CEA2) a_q <= A_INPUT == "CASCADE" ? ACIN : A;
    if (RSTB) {b1_q, b2_q} <= '0;
    else begin
      if (CEB1) b1_q <= B;
      if (CEB2) b2_q <= BREG == 2 ? b1_q : B;
    end
    if (RSTD) {d_q, ad_q} <= '0;
    else begin
      if (CED) d_q <= D;
      if (CEAD) ad_q <= d_q - a_q[DBits-1:0];
    end
    if (RSTC) c_q <= '0;
    else if (CEC) c_q <= C;
    if (RSTM) m_q <= '0;
    else if (CEM) m_q <= (DBits + 18)'($signed(multiplicand)) * (DBits + 18)'($signed(b2_q));
    if (RSTP) P <= '0;
    else if (CEP) P <= z + m;
    if (!(9'(OPMODE) inside {9'b00_011_01_01, 9'b00_101_01_01})) $fatal(1, "OPMODE not modelled");
    if ({ALUMODE, CARRYIN, CARRYINSEL} != '0) $fatal(1, "mode not modelled");
    if (INMODE != (PreAdder ? 5'b01100 : 5'b00000)) $fatal(1, "INMODE not modelled");
  end

  assign ACOUT = a_q;
  assign BCOUT = b2_q;
  assign PCOUT = P;

endmodule

`default_nettype wire
