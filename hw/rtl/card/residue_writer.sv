// Row streams to card memory: several lanes on one AXI4 write master.
//
// A lane gives a request (a range of rows of 16 bytes) and then exactly its rows, s_last with the
// last one. Its packer gathers the rows into beats; when a request's rows are complete (see
// residue_row_pack) it takes its turn, round-robin, and its beats leave back to back. Requests of a
// lane are written in order, those of different lanes in any order. One lane of 128 bits has no
// packer: its rows go to the bus as they come.
// With 128 * L bits, L lanes give one row a cycle each, with at most 1 + L cycles between residues,
// as long as a residue fills no more than half of a queue.
// Errors, the window, flush_i and clear_i: see residue_dma_write. flush_i (soft reset) drops
// everything; the lanes fall silent with it. clear_i, only while idle_o is high, zeroes all memory.
// idle_o: every request accepted before this cycle is written and acknowledged, nothing is held,
// and zeroing is done.
// Neither latency nor bus traffic depends on data.
`default_nettype none

module residue_writer #(
  parameter int unsigned AxiDataBits    = 128,  // 128, 256 or 512
  parameter int unsigned Lanes          = 1,
  parameter int unsigned MaxOutstanding = 16,   // bursts
  parameter int unsigned QueueBeats     = 32    // a power of two
) (
  input  wire  logic                     clk,
  input  wire  logic                     rst_n,
  input  wire  logic                     flush_i,
  input  wire  logic                     clear_i,
  input  wire  logic                     error_clear_i,
  input  wire  logic [63:0]              mem_base_i,   // inclusive
  input  wire  logic [63:0]              mem_limit_i,  // exclusive
  output       logic                     idle_o,
  output       logic                     error_window_o,
  output       logic                     error_axi_o,
  // Requests
  input  wire  logic [Lanes-1:0]         s_req_valid,
  output       logic [Lanes-1:0]         s_req_ready,
  input  wire  logic [Lanes-1:0][63:0]   s_req_addr,
  input  wire  logic [Lanes-1:0][15:0]   s_req_rows,
  // Rows
  input  wire  logic [Lanes-1:0]         s_valid,
  output       logic [Lanes-1:0]         s_ready,
  input  wire  logic [Lanes-1:0][127:0]  s_data,
  input  wire  logic [Lanes-1:0]         s_last,
  // AXI4 write channels
  output       logic [0:0]               m_axi_awid,
  output       logic [63:0]              m_axi_awaddr,
  output       logic [7:0]               m_axi_awlen,
  output       logic [2:0]               m_axi_awsize,
  output       logic [1:0]               m_axi_awburst,
  output       logic [3:0]               m_axi_awcache,
  output       logic [2:0]               m_axi_awprot,
  output       logic                     m_axi_awvalid,
  input  wire  logic                     m_axi_awready,
  output       logic [AxiDataBits-1:0]   m_axi_wdata,
  output       logic [AxiDataBits/8-1:0] m_axi_wstrb,
  output       logic                     m_axi_wlast,
  output       logic                     m_axi_wvalid,
  input  wire  logic                     m_axi_wready,
  input  wire  logic [0:0]               m_axi_bid,
  input  wire  logic [1:0]               m_axi_bresp,
  input  wire  logic                     m_axi_bvalid,
  output       logic                     m_axi_bready
);

  localparam int unsigned Rows        = AxiDataBits / 128;
  localparam int unsigned BeatBits    = Rows + AxiDataBits;
  localparam int unsigned LaneBits    = (Lanes == 1) ? 1 : $clog2(Lanes);
  localparam int unsigned RequestBits = 16 + 64;
  localparam int unsigned PackBeats   = (Lanes == 1 && Rows == 1) ? 0 : QueueBeats;

  // Lanes
  logic [Lanes-1:0]                  pack_idle, pack_req_valid, pack_req_ready;
  logic [Lanes-1:0][RequestBits-1:0] pack_req;
  logic [Lanes-1:0]                  beat_valid, beat_ready, beat_last;
  logic [Lanes-1:0][BeatBits-1:0]    beat;

  for (genvar i = 0; i < Lanes; i++) begin : g_lanes
    residue_row_pack #(
      .AxiDataBits(AxiDataBits),
      .QueueBeats (PackBeats)
    ) i_pack (
      .clk        (clk),
      .rst_n      (rst_n),
      .clear_i    (flush_i || clear_i),
      .idle_o     (pack_idle[i]),
      .s_req_valid(s_req_valid[i]),
      .s_req_ready(s_req_ready[i]),
      .s_req_addr (s_req_addr[i]),
      .s_req_rows (s_req_rows[i]),
      .s_valid    (s_valid[i]),
      .s_ready    (s_ready[i]),
      .s_data     (s_data[i]),
      .s_last     (s_last[i]),
      .m_req_valid(pack_req_valid[i]),
      .m_req_ready(pack_req_ready[i]),
      .m_req_addr (pack_req[i][63:0]),
      .m_req_rows (pack_req[i][64+:16]),
      .m_valid    (beat_valid[i]),
      .m_ready    (beat_ready[i]),
      .m_data     (beat[i][AxiDataBits-1:0]),
      .m_keep     (beat[i][AxiDataBits+:Rows]),
      .m_last     (beat_last[i])
    );
  end

  // Requests go to the DMA and, in the same order, to the list of lanes whose beats are due.
  logic                   req_valid, req_ready, due_ready, due_valid, due_done;
  logic [RequestBits-1:0] req;
  logic [LaneBits-1:0]    req_lane, due_lane;

  residue_arbiter #(
    .Ports    (Lanes),
    .WidthBits(RequestBits)
  ) i_arbiter (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(flush_i),
    .s_valid(pack_req_valid),
    .s_ready(pack_req_ready),
    .s_data (pack_req),
    .m_valid(req_valid),
    .m_ready(req_ready && due_ready),
    .m_data (req),
    .m_port (req_lane)
  );

  residue_fifo #(
    .WidthBits   (LaneBits),
    .DepthEntries(4)
  ) i_due (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(flush_i),
    .s_valid(req_valid && req_ready),
    .s_ready(due_ready),
    .s_data (req_lane),
    .m_valid(due_valid),
    .m_ready(due_done),
    .m_data (due_lane)
  );

  // Beats: each lane has a register that is zero when it is not its turn; what leaves is their OR.
  logic                           dma_idle, room;
  logic [Lanes-1:0]               turn;
  logic [Lanes-1:0][BeatBits-1:0] held_q;
  logic                           held_valid_q;
  logic [BeatBits-1:0]            held;

  always_comb begin
    for (int unsigned i = 0; i < Lanes; i++)
      turn[i] = due_valid && (due_lane == LaneBits'(i)) && beat_valid[i] && room;
    held = '0;
    for (int unsigned i = 0; i < Lanes; i++) held = held | held_q[i];
  end
  for (genvar i = 0; i < Lanes; i++) begin : g_ready
    assign beat_ready[i] = due_valid && (due_lane == LaneBits'(i)) && room;
  end
  assign due_done = ((turn & beat_last) != '0);

  always_ff @(posedge clk) begin
    for (int unsigned i = 0; i < Lanes; i++) held_q[i] <= turn[i] ? beat[i] : '0;
    held_valid_q <= rst_n && !flush_i && (turn != '0);
  end

  residue_dma_write #(
    .AxiDataBits   (AxiDataBits),
    .MaxOutstanding(MaxOutstanding),
    .QueueBeats    (QueueBeats)
  ) i_dma (
    .clk           (clk),
    .rst_n         (rst_n),
    .flush_i       (flush_i),
    .clear_i       (clear_i),
    .error_clear_i (error_clear_i),
    .mem_base_i    (mem_base_i),
    .mem_limit_i   (mem_limit_i),
    .idle_o        (dma_idle),
    .error_window_o(error_window_o),
    .error_axi_o   (error_axi_o),
    .s_req_valid   (req_valid && due_ready),
    .s_req_ready   (req_ready),
    .s_req_addr    (req[63:0]),
    .s_req_rows    (req[64+:16]),
    .room_o        (room),
    .s_valid       (held_valid_q),
    .s_data        (held[AxiDataBits-1:0]),
    .s_keep        (held[AxiDataBits+:Rows]),
    .m_axi_awid    (m_axi_awid),
    .m_axi_awaddr  (m_axi_awaddr),
    .m_axi_awlen   (m_axi_awlen),
    .m_axi_awsize  (m_axi_awsize),
    .m_axi_awburst (m_axi_awburst),
    .m_axi_awcache (m_axi_awcache),
    .m_axi_awprot  (m_axi_awprot),
    .m_axi_awvalid (m_axi_awvalid),
    .m_axi_awready (m_axi_awready),
    .m_axi_wdata   (m_axi_wdata),
    .m_axi_wstrb   (m_axi_wstrb),
    .m_axi_wlast   (m_axi_wlast),
    .m_axi_wvalid  (m_axi_wvalid),
    .m_axi_wready  (m_axi_wready),
    .m_axi_bid     (m_axi_bid),
    .m_axi_bresp   (m_axi_bresp),
    .m_axi_bvalid  (m_axi_bvalid),
    .m_axi_bready  (m_axi_bready)
  );

  assign idle_o = (&pack_idle) && !req_valid && !due_valid && !held_valid_q && dma_idle;

`ifndef SYNTHESIS
  a_clear_while_idle : assert property (@(posedge clk) disable iff (!rst_n)
      clear_i |-> idle_o || flush_i);
`endif

endmodule

`default_nettype wire
