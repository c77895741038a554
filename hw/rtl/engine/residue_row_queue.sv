// First-in first-out queue of rows in block memory, with registered output.
//
// Holds DepthEntries plus the two of the memory's read pipeline. One entry a cycle in and out; an
// entry is seen at the output four cycles after it was offered. `s_ready` falls when the memory is
// full. error_o: an entry that came out has a flipped bit (residue_ram's parity).
// clear_i empties the queue and, held for DepthEntries + 4 cycles, zeroes all that held entries.
// Not for: a few entries (residue_fifo).
`default_nettype none

module residue_row_queue #(
  parameter int unsigned WidthBits    = 102,
  parameter int unsigned DepthEntries = 64
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 clear_i,
  input  wire  logic                 s_valid,
  output       logic                 s_ready,
  input  wire  logic [WidthBits-1:0] s_data,
  output       logic                 m_valid,
  input  wire  logic                 m_ready,
  output       logic [WidthBits-1:0] m_data,
  output       logic                 error_o
);

  localparam int unsigned PointerBits = $clog2(DepthEntries);
  localparam int unsigned CountBits = $clog2(DepthEntries + 1);

  if (DepthEntries < 3) begin : g_depth_illegal
    $error("DepthEntries must be at least 3: an entry rests two cycles before it can leave");
  end

  logic                   pushed_q;       // the newest entry is not in the memory yet
  logic                   array_valid_q, out_valid_q;
  logic [PointerBits-1:0] write_q, read_q;
  logic [CountBits-1:0]   count_q;

  wire logic push = s_valid && s_ready;
  wire logic out_moves = !out_valid_q || m_ready;
  wire logic fetch = (count_q != CountBits'(pushed_q)) && (!array_valid_q || out_moves);

  assign s_ready = (count_q != CountBits'(DepthEntries));
  assign m_valid = out_valid_q;

  residue_ram #(.WidthBits(WidthBits), .DepthRows(DepthEntries)) i_memory (
    .clk, .rst_n, .clear_i,
    .wen_i(push), .wrow_i(write_q), .wdata_i(s_data),
    .ren_i(fetch), .rrow_i(read_q), .out_en_i(out_moves), .rdata_o(m_data), .error_o
  );

  always_ff @(posedge clk) begin
    if (!rst_n || clear_i) begin
      pushed_q      <= 1'b0;
      array_valid_q <= 1'b0;
      out_valid_q   <= 1'b0;
      write_q       <= '0;
      read_q        <= '0;
      count_q       <= '0;
    end else begin
      pushed_q <= push;
      if (push)
        write_q <= (write_q == PointerBits'(DepthEntries - 1)) ? '0 : write_q + PointerBits'(1);
      if (fetch)
        read_q <= (read_q == PointerBits'(DepthEntries - 1)) ? '0 : read_q + PointerBits'(1);
      count_q <= count_q + CountBits'(push) - CountBits'(fetch);
      if (fetch) array_valid_q <= 1'b1;
      else if (out_moves) array_valid_q <= 1'b0;
      if (out_moves) out_valid_q <= array_valid_q;
    end
  end

`ifndef SYNTHESIS
  logic pending_q;
  always_ff @(posedge clk) begin
    pending_q <= rst_n && !clear_i && m_valid && !m_ready;
    if (rst_n && pending_q) a_valid_held : assert (m_valid);
  end
`endif

endmodule

`default_nettype wire
