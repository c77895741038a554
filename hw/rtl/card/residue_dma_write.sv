// Writes card memory over an AXI4 master: requests and one stream of beats in, in request order.
//
// A request is a range of rows of 16 bytes; its beats are the whole beats that it touches, with a
// strobe for each row that it holds. INCR bursts of at most 64 beats that never cross 4 KiB. A
// burst's address is issued together with its first beat, so the bus never waits for data that was
// not begun; up to MaxOutstanding bursts await their response. One beat a cycle is sustained across
// requests. Beats enter without back-pressure, under the rule of residue_beat_queue.
// A request outside [mem_base_i, mem_limit_i) (see residue_dma_split), not aligned to a row or
// without rows never reaches the bus: its data is swallowed and error_window_o set. SLVERR and
// DECERR set error_axi_o. Both flags stay until error_clear_i or flush_i.
// A pulse on flush_i drops all requests and data; a burst begun is completed with strobes off.
// Requests and data are refused until all responses are in, and idle_o is low. clear_i, only while
// idle, zeroes all memory, as flush_i does too: idle_o is low for QueueBeats cycles.
// idle_o: every request accepted before this cycle is written and acknowledged.
// Neither latency nor bus traffic depends on data.
`default_nettype none

module residue_dma_write #(
  parameter int unsigned  AxiDataBits    = 128,  // 128, 256 or 512
  parameter int unsigned  MaxOutstanding = 16,   // bursts
  parameter int unsigned  QueueBeats     = 32,
  localparam int unsigned Rows           = AxiDataBits / 128,
  localparam int unsigned PlaceBits      = (Rows == 1) ? 1 : $clog2(Rows)
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
  input  wire  logic                     s_req_valid,
  output       logic                     s_req_ready,
  input  wire  logic [63:0]              s_req_addr,
  input  wire  logic [15:0]              s_req_rows,
  // Data
  output       logic                     room_o,
  input  wire  logic                     s_valid,
  input  wire  logic [AxiDataBits-1:0]   s_data,
  input  wire  logic [Rows-1:0]          s_keep,  // rows that are written
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

  localparam int unsigned MaxBurstBeats   = 64;
  localparam int unsigned OutstandingBits = $clog2(MaxOutstanding + 1);

  logic flushing_q;

  // Bursts
  logic                 split_ready, split_idle;
  logic                 burst_valid, burst_ready, burst_single, burst_none, burst_bad;
  logic [63:0]          burst_addr;
  logic [15:0]          burst_beats;
  logic [PlaceBits-1:0] burst_low, burst_high;
  logic                 burst_last, burst_tag;
  logic                 moved_q;  // beats of the burst were taken
  logic                 final_q;  // then: the next one is its last
  logic [15:0]          after_q;  // number of the beat after that, from 1

  // A burst whose address is out must be completed before the requests are dropped.
  wire logic begun = moved_q && !burst_bad;
  wire logic clear = flushing_q && !begun;

  assign s_req_ready = split_ready && !flushing_q;

  residue_dma_split #(
    .AxiDataBits  (AxiDataBits),
    .MaxBurstBeats(MaxBurstBeats),
    .TagBits      (1)
  ) i_split (
    .clk           (clk),
    .rst_n         (rst_n),
    .clear_i       (clear),
    .mem_base_i    (mem_base_i),
    .mem_limit_i   (mem_limit_i),
    .s_req_valid   (s_req_valid && !flushing_q),
    .s_req_ready   (split_ready),
    .s_req_addr    (s_req_addr),
    .s_req_rows    (s_req_rows),
    .s_req_tag     (1'b0),
    .m_burst_valid (burst_valid),
    .m_burst_ready (burst_ready),
    .m_burst_addr  (burst_addr),
    .m_burst_beats (burst_beats),
    .m_burst_single(burst_single),
    .m_burst_none  (burst_none),
    .m_burst_low   (burst_low),
    .m_burst_high  (burst_high),
    .m_burst_last  (burst_last),
    .m_burst_bad   (burst_bad),
    .m_burst_tag   (burst_tag),
    .idle_o        (split_idle)
  );

  // Data
  logic                   data_valid, data_take, data_idle, room, half;
  logic [AxiDataBits-1:0] data;
  logic [Rows-1:0]        keep;

  assign room_o = room && !flushing_q;

  residue_beat_queue #(
    .WidthBits (Rows + AxiDataBits),
    .DepthBeats(QueueBeats)
  ) i_data (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(clear_i || flush_i || flushing_q),
    .room_o (room),
    .half_o (half),
    .idle_o (data_idle),
    .s_valid(s_valid),
    .s_data ({s_keep, s_data}),
    .m_valid(data_valid),
    .m_ready(data_take),
    .m_data ({keep, data})
  );

  // Beats: to the bus, padding while flushing, or swallowed
  logic [OutstandingBits-1:0] outstanding_q;

  wire logic address_free = !m_axi_awvalid || m_axi_awready;
  wire logic beat_free    = !m_axi_wvalid || m_axi_wready;
  wire logic credit       = (outstanding_q != OutstandingBits'(MaxOutstanding));
  wire logic final_beat   = moved_q ? final_q : burst_single;

  wire logic start   = burst_valid && !burst_bad && !moved_q && !flushing_q && data_valid &&
                       address_free && beat_free && credit;
  wire logic go_on   = begun && (data_valid || flushing_q) && beat_free;
  wire logic swallow = burst_valid && burst_bad && data_valid && !burst_none;
  wire logic empty   = burst_valid && burst_bad && burst_none;
  wire logic send    = start || go_on;

  assign data_take   = send || swallow;
  assign burst_ready = ((send || swallow) && final_beat) || empty;

  assign m_axi_awid    = 1'b0;
  assign m_axi_awsize  = 3'($clog2(AxiDataBits / 8));
  assign m_axi_awburst = 2'b01;
  assign m_axi_awcache = 4'b0011;
  assign m_axi_awprot  = 3'b000;
  assign m_axi_bready  = 1'b1;

  always_ff @(posedge clk) begin
    if (start) begin
      m_axi_awaddr <= burst_addr;
      m_axi_awlen  <= 8'(burst_beats - 16'd1);
    end
    // Zero while no beat stands here.
    if (beat_free) begin
      m_axi_wdata <= (send && !flushing_q) ? data : '0;
      for (int unsigned i = 0; i < Rows; i++)
        m_axi_wstrb[16*i+:16] <= {16{keep[i] && !flushing_q}};
      m_axi_wlast <= final_beat;
    end
    if (!rst_n) begin
      m_axi_awvalid <= 1'b0;
      m_axi_wvalid  <= 1'b0;
    end else begin
      if (address_free) m_axi_awvalid <= start;
      if (beat_free) m_axi_wvalid <= send;
    end
  end

  always_ff @(posedge clk) begin
    if (data_take) final_q <= (after_q == burst_beats);
    if (!rst_n || clear || burst_ready) after_q <= 16'd2;
    else if (data_take) after_q <= after_q + 16'd1;
  end

  // State
  wire logic busy = m_axi_awvalid || m_axi_wvalid || (outstanding_q != '0);

  assign idle_o = !flushing_q && split_idle && data_idle && !busy;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      moved_q        <= 1'b0;
      outstanding_q  <= '0;
      flushing_q     <= 1'b0;
      error_window_o <= 1'b0;
      error_axi_o    <= 1'b0;
    end else begin
      if (clear)          moved_q <= 1'b0;
      else if (data_take) moved_q <= !final_beat;
      if (start != m_axi_bvalid)
        outstanding_q <= start ? outstanding_q + 1'b1 : outstanding_q - 1'b1;
      flushing_q <= flush_i || (flushing_q && (begun || busy));
      if (flush_i || flushing_q || error_clear_i) begin
        error_window_o <= 1'b0;
        error_axi_o    <= 1'b0;
      end else begin
        if (burst_valid && burst_bad) error_window_o <= 1'b1;
        if (m_axi_bvalid && m_axi_bresp[1]) error_axi_o <= 1'b1;
      end
    end
  end

  wire logic unused = &{1'b0, m_axi_bid, m_axi_bresp[0], burst_last, burst_tag,
                          burst_low, burst_high, half};

`ifndef SYNTHESIS
  a_aw_holds : assert property (@(posedge clk) disable iff (!rst_n)
      m_axi_awvalid && !m_axi_awready |=> m_axi_awvalid && $stable(m_axi_awaddr) &&
      $stable(m_axi_awlen));
  a_w_holds : assert property (@(posedge clk) disable iff (!rst_n)
      m_axi_wvalid && !m_axi_wready |=> m_axi_wvalid && $stable(m_axi_wdata) &&
      $stable(m_axi_wlast) && $stable(m_axi_wstrb));
  a_aw_in_window : assert property (@(posedge clk) disable iff (!rst_n)
      $rose(m_axi_awvalid) |-> m_axi_awaddr >= mem_base_i && m_axi_awaddr < mem_limit_i);
  a_b_expected : assert property (@(posedge clk) disable iff (!rst_n)
      m_axi_bvalid |-> outstanding_q != '0);
`endif

endmodule

`default_nettype wire
