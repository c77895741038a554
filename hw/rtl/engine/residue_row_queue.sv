// First-in first-out queue of rows in block memory, with registered output.
//
// Holds DepthEntries plus the two of the output stage. One entry a cycle in and out; an entry is
// seen at the output two cycles after it went in. `s_ready` falls when the memory is full.
// Not for: a few entries (residue_fifo).
`default_nettype none

module residue_row_queue #(
  parameter int unsigned WidthBits    = 102,
  parameter int unsigned DepthEntries = 64
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 s_valid,
  output       logic                 s_ready,
  input  wire  logic [WidthBits-1:0] s_data,
  output       logic                 m_valid,
  input  wire  logic                 m_ready,
  output       logic [WidthBits-1:0] m_data
);

  localparam int unsigned PointerBits = $clog2(DepthEntries);
  localparam int unsigned CountBits = $clog2(DepthEntries + 1);

  if (DepthEntries < 2) begin : g_depth_illegal
    $error("DepthEntries must be at least 2");
  end

  logic [WidthBits-1:0]   mem_q [DepthEntries];
  logic [WidthBits-1:0]   read_q;
  logic                   read_valid_q;
  logic [WidthBits-1:0]   out_q, skid_q;
  logic                   out_valid_q, skid_valid_q;
  logic [PointerBits-1:0] write_q, read_pointer_q;
  logic [CountBits-1:0]   count_q;

  wire logic push = s_valid && s_ready;
  wire logic pop  = out_valid_q && m_ready;
  // A read is started when its datum will find room: output, skid and the read under way.
  wire logic [1:0] held = 2'(out_valid_q) + 2'(skid_valid_q) + 2'(read_valid_q);
  wire logic fetch = (count_q != '0) && (held < 2'd2 || (held == 2'd2 && pop));

  assign s_ready = (count_q != CountBits'(DepthEntries));
  assign m_valid = out_valid_q;
  assign m_data  = out_q;

  always_ff @(posedge clk) begin
    if (push) mem_q[write_q] <= s_data;
    if (fetch) read_q <= mem_q[read_pointer_q];
    if (!rst_n) begin
      write_q        <= '0;
      read_pointer_q <= '0;
      count_q        <= '0;
      read_valid_q   <= 1'b0;
      out_valid_q    <= 1'b0;
      skid_valid_q   <= 1'b0;
    end else begin
      if (push)
        write_q <= (write_q == PointerBits'(DepthEntries - 1)) ? '0 : write_q + PointerBits'(1);
      if (fetch)
        read_pointer_q <= (read_pointer_q == PointerBits'(DepthEntries - 1))
                          ? '0 : read_pointer_q + PointerBits'(1);
      count_q      <= count_q + CountBits'(push) - CountBits'(fetch);
      read_valid_q <= fetch;
      if (!out_valid_q || pop) begin
        out_valid_q  <= skid_valid_q || read_valid_q;
        skid_valid_q <= 1'b0;
      end else if (read_valid_q) begin
        skid_valid_q <= 1'b1;
      end
    end
    if (!out_valid_q || pop) out_q <= skid_valid_q ? skid_q : read_q;
    else if (read_valid_q) skid_q <= read_q;
  end

`ifndef SYNTHESIS
  logic pending_q;
  always_ff @(posedge clk) begin
    pending_q <= rst_n && m_valid && !m_ready;
    if (rst_n && pending_q) a_valid_held : assert (m_valid);
    if (rst_n) a_skid_room : assert (!(skid_valid_q && read_valid_q));
  end
`endif

endmodule

`default_nettype wire
