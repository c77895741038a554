// Checks transfer requests against the memory window and splits them into AXI bursts.
//
// A request is a range of rows of 16 bytes; its bursts are the whole beats that it touches. Rows
// `low` of the first beat to `high` of the last beat of a burst belong to the request.
// A burst ends at a multiple of MaxBurstBeats beats, hence never crosses 4 KiB. A request that is
// not aligned to a row, has no rows, or of which a beat leaves [mem_base_i, mem_limit_i) becomes one
// burst with `bad` set, which must not reach the bus and carries the beats of the whole request.
// Where the window's ends are multiples of a beat, its beats are inside exactly if its rows are.
// Latency: three cycles. Throughput: one burst a cycle, also across requests.
`default_nettype none

module residue_dma_split #(
  parameter int unsigned  AxiDataBits   = 128,
  parameter int unsigned  MaxBurstBeats = 64,  // a power of two
  parameter int unsigned  TagBits       = 1,
  localparam int unsigned Rows          = AxiDataBits / 128,
  localparam int unsigned PlaceBits     = (Rows == 1) ? 1 : $clog2(Rows)
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 clear_i,  // drop all requests, also one that enters now
  input  wire  logic [63:0]          mem_base_i,
  input  wire  logic [63:0]          mem_limit_i,
  input  wire  logic                 s_req_valid,
  output       logic                 s_req_ready,
  input  wire  logic [63:0]          s_req_addr,
  input  wire  logic [15:0]          s_req_rows,
  input  wire  logic [TagBits-1:0]   s_req_tag,
  output       logic                 m_burst_valid,
  input  wire  logic                 m_burst_ready,
  output       logic [63:0]          m_burst_addr,  // aligned to a beat
  output       logic [15:0]          m_burst_beats,
  output       logic                 m_burst_single,  // one beat
  output       logic                 m_burst_none,    // no beat: it is bad
  output       logic [PlaceBits-1:0] m_burst_low,
  output       logic [PlaceBits-1:0] m_burst_high,
  output       logic                 m_burst_last,  // last of its request
  output       logic                 m_burst_bad,
  output       logic [TagBits-1:0]   m_burst_tag,
  output       logic                 idle_o
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
    logic [15:0]        rows;
    logic [63:0]        addr;
  } request_t;

  typedef struct packed {
    logic [TagBits-1:0]   tag;
    logic [PlaceBits-1:0] low;
    logic [PlaceBits-1:0] high;
    logic [15:0]          beats;
    logic [63:0]          addr;
  } beats_t;

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
    .s_data ({s_req_tag, s_req_rows, s_req_addr}),
    .m_valid(in_valid),
    .m_ready(in_ready),
    .m_data (in_request)
  );

  // Rows to beats.
  logic [PlaceBits-1:0] in_low, in_high;
  logic [15:0]          in_beats;
  wire logic [63:0]     in_addr = {in_request.addr[63:BeatLog2], {BeatLog2{1'b0}}};

  if (Rows == 1) begin : g_row
    assign in_low   = '0;
    assign in_high  = '0;
    assign in_beats = in_request.rows;
  end else begin : g_rows
    // Rows from the first beat's start to before the request's last row.
    wire logic [16:0] span = 17'(in_request.rows) + 17'(in_low) - 17'd1;
    assign in_low   = in_request.addr[4+:PlaceBits];
    assign in_high  = span[PlaceBits-1:0];
    assign in_beats = (in_request.rows == '0) ? 16'd0 : 16'(span[16:PlaceBits]) + 16'd1;
  end

  // Rank 2: distances to the window's ends. Rank 3: the request being split, and of its next burst
  // what must not be late.
  beats_t      check_q, split_q;
  logic        check_valid_q, split_valid_q;
  logic        outside_q;  // starts before the window, or is malformed
  logic [64:0] room_q;     // bytes from its start to the window's end; upper bit: it starts behind
  logic        bad_q;
  logic [15:0] size_q;     // beats of a burst that is not its last
  logic        fits_q;     // the next burst is its last
  logic        single_q, none_q;  // beats of the next burst

  wire logic        outside    = (in_addr < mem_base_i) || (in_request.addr[3:0] != '0) ||
                                 (in_request.rows == '0);
  wire logic [63:0] check_size = 64'(check_q.beats) << BeatLog2;
  wire logic        bad        = outside_q || room_q[64] || (room_q[63:0] < check_size);

  // Beats up to the next multiple of MaxBurstBeats.
  wire logic [15:0] to_boundary =
      16'(MaxBurstBeats) - 16'(check_q.addr[BeatLog2+:MaxBurstLog2]);
  wire logic        fits       = (check_q.beats <= to_boundary);
  wire logic [15:0] beats_left = split_q.beats - size_q;
  wire logic        whole      = bad_q || fits_q;

  wire logic burst_done  = m_burst_valid && m_burst_ready;
  wire logic split_ready = !split_valid_q || (burst_done && m_burst_last);

  assign in_ready      = !check_valid_q || split_ready;
  assign m_burst_valid = split_valid_q;
  assign m_burst_addr  = split_q.addr;
  assign m_burst_beats = whole ? split_q.beats : size_q;
  assign m_burst_single = single_q;
  assign m_burst_none   = none_q;
  assign m_burst_low   = split_q.low;
  assign m_burst_high  = whole ? split_q.high : PlaceBits'(Rows - 1);
  assign m_burst_last  = whole;
  assign m_burst_bad   = bad_q;
  assign m_burst_tag   = split_q.tag;
  assign idle_o        = !in_valid && !check_valid_q && !split_valid_q;

  always_ff @(posedge clk) begin
    if (in_ready) begin
      check_q   <= {in_request.tag, in_low, in_high, in_beats, in_addr};
      outside_q <= outside;
      room_q    <= {1'b0, mem_limit_i} - {1'b0, in_addr};
    end
    if (split_ready) begin
      split_q  <= check_q;
      bad_q    <= bad;
      size_q   <= to_boundary;
      fits_q   <= fits;
      single_q <= (check_q.beats == 16'd1) || (!bad && to_boundary == 16'd1);
      none_q   <= (check_q.beats == '0);
    end else if (burst_done) begin
      split_q.addr  <= split_q.addr + (64'(size_q) << BeatLog2);
      split_q.beats <= beats_left;
      split_q.low   <= '0;
      size_q        <= 16'(MaxBurstBeats);
      fits_q        <= (beats_left <= 16'(MaxBurstBeats));
      single_q      <= (beats_left == 16'd1);
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
  a_beats : assert property (@(posedge clk) disable iff (!rst_n)
      m_burst_valid |-> m_burst_single == (m_burst_beats == 16'd1) &&
      m_burst_none == (m_burst_beats == '0));
  a_burst_in_page : assert property (@(posedge clk) disable iff (!rst_n)
      m_burst_valid && !m_burst_bad |->
      m_burst_beats != '0 && m_burst_beats <= 16'(MaxBurstBeats) &&
      32'(m_burst_addr[11:0]) + (32'(m_burst_beats) << BeatLog2) <= 4096);
`endif

endmodule

`default_nettype wire
