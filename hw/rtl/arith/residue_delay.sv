// Delay line.
//
//   q_o = d_i of Cycles cycles ago
//
// Ranges:  Cycles >= 2.
// Latency: Cycles. No reset: what leaves in the first Cycles cycles is undefined.
// Cost:    up to 17 cycles: Width shift registers (SRL16) and as many flip-flops behind them.
// Not for: control flags (they want a reset).
//
// Shift register in synthesis; in simulation a circular buffer, which moves one word a cycle
// instead of all of them.
`default_nettype none

module residue_delay #(
    parameter int unsigned Width = 51,
    parameter int unsigned Cycles = 15
) (
    input  wire              clk,
    input  wire  [Width-1:0] d_i,
    output logic [Width-1:0] q_o
);

  if (Cycles < 2) begin : g_illegal
    $error("residue_delay: use a register");
  end

`ifdef SYNTHESIS
  (* srl_style = "srl_reg" *) logic [Width-1:0] line_q[Cycles];
  always_ff @(posedge clk) begin
    line_q[0] <= d_i;
    for (int unsigned i = 1; i < Cycles; i++) line_q[i] <= line_q[i-1];
  end
  assign q_o = line_q[Cycles-1];
`else
  localparam int unsigned PointerBits = $clog2(Cycles);
  logic [Width-1:0] buffer[2**PointerBits];
  logic [PointerBits-1:0] pointer_q = '0;
  // Blocking on purpose: the buffer is read and written here only, read first.
  always_ff @(posedge clk) begin
    q_o                                          <= buffer[pointer_q];
    buffer[PointerBits'(pointer_q + (Cycles-1))]  = d_i;
    pointer_q                                    <= pointer_q + 1'b1;
  end
`endif

endmodule

`default_nettype wire
