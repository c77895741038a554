// Checks transfer requests against the memory window and splits them into AXI bursts.
//
// A burst ends at a multiple of MaxBurstBeats beats, hence never crosses 4 KiB. A request that is
// not aligned to a beat, has no beats or leaves [mem_base_i, mem_limit_i) becomes one burst with
// `bad` set, which must not reach the bus and carries the beats of the whole request.
// Latency: three cycles. Throughput: one burst a cycle, also across requests.
`default_nettype none

module residue_dma_split #(
  parameter int unsigned AxiDataBits   = 128,
  parameter int unsigned MaxBurstBeats = 64,  // a power of two
  parameter int unsigned TagBits       = 1
) (
  input  wire  logic               clk,
  input  wire  logic               rst_n,
  input  wire  logic               clear_i,  // drop all requests, also one that enters now
  input  wire  logic [63:0]        mem_base_i,
  input  wire  logic [63:0]        mem_limit_i,
  input  wire  logic               s_req_valid,
  output       logic               s_req_ready,
  input  wire  logic [63:0]        s_req_addr,
  input  wire  logic [15:0]        s_req_beats,
  input  wire  logic [TagBits-1:0] s_req_tag,
  output       logic               m_burst_valid,
  input  wire  logic               m_burst_ready,
  output       logic [63:0]        m_burst_addr,
  output       logic [15:0]        m_burst_beats,
  output       logic               m_burst_last,  // last of its request
  output       logic               m_burst_bad,
  output       logic [TagBits-1:0] m_burst_tag,
  output       logic               idle_o
);

  localparam int unsigned BeatBytes    = AxiDataBits / 8;
  localparam int unsigned BeatLog2     = $clog2(BeatBytes);
  localparam int unsigned MaxBurstLog2 = $clog2(MaxBurstBeats);
  localparam int unsigned RequestBits  = TagBits + 16 + 64;

  if (AxiDataBits != 8 * (1 << BeatLog2) || AxiDataBits < 128 || AxiDataBits > 512)
  begin : g_width_illegal
    $error("AxiDataBits must be 128, 256 or 512");
  end
  if (MaxBurstBeats != (1 << MaxBurstLog2) || MaxBurstBeats < 2 || MaxBurstBeats * BeatBytes > 4096)
  begin : g_burst_illegal
    $error("MaxBurstBeats must be a power of two, at least 2, and span at most 4 KiB");
  end

  typedef struct packed {
    logic [TagBits-1:0] tag;
    logic [15:0]        beats;
    logic [63:0]        addr;
  } request_t;

  // Rank 1: requests.
  request_t in_request;
  logic     in_valid, in_ready;

  residue_fifo #(
    .WidthBits   (RequestBits),
    .DepthEntries(2)
  ) i_requests (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(clear_i),
    .s_valid(s_req_valid),
    .s_ready(s_req_ready),
    .s_data ({s_req_tag, s_req_beats, s_req_addr}),
    .m_valid(in_valid),
    .m_ready(in_ready),
    .m_data (in_request)
  );

  // Rank 2: distances to the window's ends. Rank 3: the request being split.
  request_t    check_q, split_q;
  logic        check_valid_q, split_valid_q;
  logic        outside_q;  // starts outside the window, or is malformed
  logic [63:0] room_q;     // bytes from its start to the window's end
  logic        bad_q;

  wire logic        outside    = (in_request.addr < mem_base_i) || (in_request.addr >= mem_limit_i) ||
                                 (in_request.addr[BeatLog2-1:0] != '0) || (in_request.beats == '0);
  wire logic [63:0] check_size = 64'(check_q.beats) << BeatLog2;

  // Beats up to the next multiple of MaxBurstBeats, and of this burst.
  wire logic [15:0] to_boundary =
      16'(MaxBurstBeats) - 16'(split_q.addr[BeatLog2+:MaxBurstLog2]);
  wire logic        whole       = bad_q || (split_q.beats <= to_boundary);

  wire logic burst_done  = m_burst_valid && m_burst_ready;
  wire logic split_ready = !split_valid_q || (burst_done && m_burst_last);

  assign in_ready      = !check_valid_q || split_ready;
  assign m_burst_valid = split_valid_q;
  assign m_burst_addr  = split_q.addr;
  assign m_burst_beats = whole ? split_q.beats : to_boundary;
  assign m_burst_last  = whole;
  assign m_burst_bad   = bad_q;
  assign m_burst_tag   = split_q.tag;
  assign idle_o        = !in_valid && !check_valid_q && !split_valid_q;

  always_ff @(posedge clk) begin
    if (in_ready && in_valid) begin
      check_q   <= in_request;
      outside_q <= outside;
      room_q    <= mem_limit_i - in_request.addr;
    end
    if (split_ready && check_valid_q) begin
      split_q <= check_q;
      bad_q   <= outside_q || (room_q < check_size);
    end else if (burst_done) begin
      split_q.addr  <= split_q.addr + (64'(m_burst_beats) << BeatLog2);
      split_q.beats <= split_q.beats - m_burst_beats;
    end
    if (!rst_n || clear_i) begin
      check_valid_q <= 1'b0;
      split_valid_q <= 1'b0;
    end else begin
      if (in_ready) check_valid_q <= in_valid;
      if (split_ready) split_valid_q <= check_valid_q;
    end
  end

`ifndef SYNTHESIS
  a_burst_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_burst_valid && !m_burst_ready |=> m_burst_valid && $stable(m_burst_addr) &&
      $stable(m_burst_beats));
  a_burst_in_page : assert property (@(posedge clk) disable iff (!rst_n)
      m_burst_valid && !m_burst_bad |->
      m_burst_beats != '0 && m_burst_beats <= 16'(MaxBurstBeats) &&
      32'(m_burst_addr[11:0]) + (32'(m_burst_beats) << BeatLog2) <= 4096);
`endif

endmodule

`default_nettype wire
