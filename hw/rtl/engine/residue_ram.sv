// Simple dual-port memory: one write port, one read port, registered output.
//
// Latency: read data two cycles after the address (array, then output register), as block and
// ultra RAM want it. A read of a row in the cycle it is written returns the old data.
// Not for: memories of a few rows (use registers).
`default_nettype none

module residue_ram #(
  parameter int unsigned WidthBits = 102,
  parameter int unsigned DepthRows = 64,
  parameter int unsigned RowBits   = $clog2(DepthRows)
) (
  input  wire  logic                 clk,
  input  wire  logic                 wen_i,
  input  wire  logic [RowBits-1:0]   wrow_i,
  input  wire  logic [WidthBits-1:0] wdata_i,
  input  wire  logic                 ren_i,
  input  wire  logic [RowBits-1:0]   rrow_i,
  output       logic [WidthBits-1:0] rdata_o
);

  logic [WidthBits-1:0] mem_q [DepthRows];
  logic [WidthBits-1:0] array_q;

  always_ff @(posedge clk) begin
    if (wen_i) mem_q[wrow_i] <= wdata_i;
    if (ren_i) array_q <= mem_q[rrow_i];
    rdata_o <= array_q;
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (wen_i) a_wrow : assert (32'(wrow_i) < DepthRows);
    if (ren_i) a_rrow : assert (32'(rrow_i) < DepthRows);
  end
`endif

endmodule

`default_nettype wire
