// Small first-in first-out store in registers.
//
// ready and valid depend on registers alone, so a depth of two cuts every path between its sides
// at full rate. Latency: one cycle. Not for: depths of which a memory should be made.
`default_nettype none

module residue_fifo #(
  parameter int unsigned WidthBits    = 8,
  parameter int unsigned DepthEntries = 2  // a power of two, at least 2
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 clear_i,  // empty it; what enters in this cycle is lost
  input  wire  logic                 s_valid,
  output       logic                 s_ready,
  input  wire  logic [WidthBits-1:0] s_data,
  output       logic                 m_valid,
  input  wire  logic                 m_ready,
  output       logic [WidthBits-1:0] m_data
);

  localparam int unsigned IndexBits = $clog2(DepthEntries);

  if (DepthEntries < 2 || DepthEntries != (1 << IndexBits)) begin : g_depth_illegal
    $error("DepthEntries must be a power of two, at least 2");
  end

  logic [WidthBits-1:0] mem_q [DepthEntries];
  logic [IndexBits-1:0] write_q;
  logic [IndexBits-1:0] read_q;
  logic [IndexBits:0]   count_q;

  wire logic push = s_valid && s_ready;
  wire logic pop  = m_valid && m_ready;

  assign s_ready = !count_q[IndexBits];
  assign m_valid = (count_q != '0);
  assign m_data  = mem_q[read_q];

  always_ff @(posedge clk) begin
    if (!rst_n || clear_i) begin
      write_q <= '0;
      read_q  <= '0;
      count_q <= '0;
    end else begin
      if (push) write_q <= write_q + 1'b1;
      if (pop) read_q <= read_q + 1'b1;
      if (push != pop) count_q <= push ? count_q + 1'b1 : count_q - 1'b1;
    end
    if (push) mem_q[write_q] <= s_data;
  end

`ifndef SYNTHESIS
  a_valid_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_valid && !m_ready |=> m_valid && $stable(m_data));
`endif

endmodule

`default_nettype wire
