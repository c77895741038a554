// Simple dual-port memory for operands: one write port, one read port, parity, and clearing.
//
// Read latency: two cycles (array, then output register), as block and ultra RAM want it; the
// output register moves only while out_en_i. A write lands two edges after it is asked for: a read
// in the cycle of the write or in the next one returns the old data.
// Parity: one even parity bit a row, made from the write register, checked one cycle behind the
// output register, so neither stands in the data's way. error_o pulses three cycles behind a read
// (longer where the output waits) of a row with an odd number of flipped bits; rows that were never
// written must not be read. Parity = 0 leaves all of it out.
// Clearing: while clear_i, rows are zeroed from row 0 on, one a cycle, and read back after that;
// held for DepthRows + 4 cycles it leaves zeroes in the array and in every register.
//
// With RESIDUE_FAULTS the array mem_q of each instance is public to the simulation's C++ code, which
// flips bits in it (row r, bit b; the top bit is the parity) or reads it. Benches on cocotb reach it
// by its name without that.
// Cost: the memory of WidthBits + Parity bits a row, a register a write bit, WidthBits / 5 LUT for
// each of the two parities. Not for: memories of a few rows (use registers).
`default_nettype none

module residue_ram #(
  parameter int unsigned WidthBits = 102,
  parameter int unsigned DepthRows = 64,
  parameter bit          Parity    = 1'b1,
  parameter              RamStyle  = "auto",  // of synthesis; untyped, as a vendor's attribute is
  parameter int unsigned RowBits   = $clog2(DepthRows)
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 clear_i,
  input  wire  logic                 wen_i,
  input  wire  logic [RowBits-1:0]   wrow_i,
  input  wire  logic [WidthBits-1:0] wdata_i,
  input  wire  logic                 ren_i,
  input  wire  logic [RowBits-1:0]   rrow_i,
  input  wire  logic                 out_en_i,
  output       logic [WidthBits-1:0] rdata_o,
  output       logic                 error_o
);

  localparam int unsigned StoredBits = WidthBits + 32'(Parity);
  localparam logic [RowBits-1:0] LastRow = RowBits'(DepthRows - 1);

`ifdef RESIDUE_FAULTS
  logic [StoredBits-1:0] mem_q [DepthRows] /* verilator public_flat_rw */;
`else
  (* ram_style = RamStyle *) logic [StoredBits-1:0] mem_q [DepthRows];
`endif

  logic [RowBits-1:0]    clear_row_q;
  logic                  wen_q;
  logic [RowBits-1:0]    wrow_q;
  logic [WidthBits-1:0]  wdata_q;
  logic [StoredBits-1:0] stored, array_q, out_q;
  wire logic [RowBits-1:0] rrow = clear_i ? clear_row_q : rrow_i;

  always_ff @(posedge clk) begin
    clear_row_q <= !clear_i ? '0 : (clear_row_q == LastRow) ? LastRow : clear_row_q + RowBits'(1);
    wen_q   <= rst_n && (wen_i || clear_i);
    wrow_q  <= clear_i ? clear_row_q : wrow_i;
    wdata_q <= clear_i ? '0 : wdata_i;
    if (wen_q) mem_q[wrow_q] <= stored;
    if (ren_i || clear_i) array_q <= mem_q[rrow];
    if (out_en_i || clear_i) out_q <= array_q;
  end
  assign rdata_o = out_q[WidthBits-1:0];

  if (Parity) begin : g_parity
    logic array_used_q, out_used_q;   // a row that was asked for stands there
    assign stored = {^wdata_q, wdata_q};
    always_ff @(posedge clk) begin
      if (!rst_n || clear_i) array_used_q <= 1'b0;
      else if (ren_i) array_used_q <= 1'b1;
      else if (out_en_i) array_used_q <= 1'b0;
      if (!rst_n || clear_i) out_used_q <= 1'b0;
      else if (out_en_i) out_used_q <= array_used_q;
      error_o <= rst_n && out_used_q && (^out_q);
    end
  end else begin : g_bare
    assign stored  = wdata_q;
    assign error_o = 1'b0;
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (wen_i) a_wrow : assert (32'(wrow_i) < DepthRows);
    if (ren_i) a_rrow : assert (32'(rrow_i) < DepthRows);
  end
`endif

endmodule

`default_nettype wire
