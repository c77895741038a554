// Reads card memory over an AXI4 master: requests in, beats out to their targets, in request order.
//
// A request is a range of rows of 16 bytes, of which whole beats are read: rows m_low..m_high of a
// beat belong to it. INCR bursts of at most 64 beats that never cross 4 KiB; up to MaxOutstanding of
// them are in flight while earlier data drains. One beat a cycle is sustained across requests.
// A beat is taken off the bus when all targets of its request have room, and leaves to them a cycle
// later without further question: room_i must be that of a residue_beat_queue. So a target that
// does not drain stops the others once its queue is full; no deadlock comes of it as long as every
// target drains without waiting for another one's data or for a later request.
// A request outside [mem_base_i, mem_limit_i) (see residue_dma_split), not aligned to a row or
// without rows never reaches the bus: it answers with one beat that has `error` and `last` set, and
// sets error_window_o. SLVERR and DECERR mark their beat with `error`, set error_axi_o, and the
// request runs to its end. Both flags stay until error_clear_i or flush_i.
// A pulse on flush_i drops all requests and unread data; bursts on the bus are drained. Requests
// are refused until that is done, and idle_o is low. The targets' queues are cleared by the same
// pulse. No data stays here: the beat register is zero when no beat is in it.
// idle_o may still be high in the cycle in which a request is accepted.
// Neither latency nor bus traffic depends on data.
`default_nettype none

module residue_dma_read #(
  parameter int unsigned  AxiDataBits    = 128,  // 128, 256 or 512
  parameter int unsigned  MaxOutstanding = 16,   // bursts, a power of two
  parameter int unsigned  TagBits        = 4,
  parameter int unsigned  Targets        = 1,
  localparam int unsigned Rows           = AxiDataBits / 128,
  localparam int unsigned PlaceBits      = (Rows == 1) ? 1 : $clog2(Rows)
) (
  input  wire  logic                   clk,
  input  wire  logic                   rst_n,
  input  wire  logic                   flush_i,
  input  wire  logic                   error_clear_i,
  input  wire  logic [63:0]            mem_base_i,   // inclusive
  input  wire  logic [63:0]            mem_limit_i,  // exclusive
  output       logic                   idle_o,
  output       logic                   error_window_o,
  output       logic                   error_axi_o,
  // Requests
  input  wire  logic                   s_req_valid,
  output       logic                   s_req_ready,
  input  wire  logic [63:0]            s_req_addr,
  input  wire  logic [15:0]            s_req_rows,
  input  wire  logic [TagBits-1:0]     s_req_tag,
  input  wire  logic [Targets-1:0]     s_req_targets,  // all that take its beats
  // Data
  input  wire  logic [Targets-1:0]     room_i,
  output       logic [Targets-1:0]     m_valid,
  output       logic [AxiDataBits-1:0] m_data,
  output       logic [PlaceBits-1:0]   m_low,
  output       logic [PlaceBits-1:0]   m_high,
  output       logic                   m_last,  // last beat of its request
  output       logic                   m_error,
  output       logic [TagBits-1:0]     m_tag,
  // AXI4 read channels
  output       logic [0:0]             m_axi_arid,
  output       logic [63:0]            m_axi_araddr,
  output       logic [7:0]             m_axi_arlen,
  output       logic [2:0]             m_axi_arsize,
  output       logic [1:0]             m_axi_arburst,
  output       logic [3:0]             m_axi_arcache,
  output       logic [2:0]             m_axi_arprot,
  output       logic                   m_axi_arvalid,
  input  wire  logic                   m_axi_arready,
  input  wire  logic [0:0]             m_axi_rid,
  input  wire  logic [AxiDataBits-1:0] m_axi_rdata,
  input  wire  logic [1:0]             m_axi_rresp,
  input  wire  logic                   m_axi_rlast,
  input  wire  logic                   m_axi_rvalid,
  output       logic                   m_axi_rready
);

  localparam int unsigned MaxBurstBeats = 64;
  localparam int unsigned PendingBits   = Targets + TagBits + 2 * PlaceBits + 2;

  // A burst on the bus, or a bad request that waits for its turn to answer.
  typedef struct packed {
    logic [Targets-1:0]   targets;
    logic [TagBits-1:0]   tag;
    logic [PlaceBits-1:0] low;
    logic [PlaceBits-1:0] high;
    logic                 last;
    logic                 bad;
  } pending_t;

  logic flushing_q;
  wire logic clear = flush_i || flushing_q;

  // Bursts
  logic                       split_ready, split_idle;
  logic                       burst_valid, burst_ready, burst_last, burst_bad;
  logic                       burst_single, burst_none;
  logic [63:0]                burst_addr;
  logic [15:0]                burst_beats;
  logic [PlaceBits-1:0]       burst_low, burst_high;
  logic [Targets+TagBits-1:0] burst_tag;

  assign s_req_ready = split_ready && !flushing_q;

  residue_dma_split #(
    .AxiDataBits  (AxiDataBits),
    .MaxBurstBeats(MaxBurstBeats),
    .TagBits      (Targets + TagBits)
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
    .s_req_tag     ({s_req_targets, s_req_tag}),
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

  // Address channel and the list of pending bursts
  pending_t pending;
  logic     list_ready, pending_valid, pending_done;

  wire logic address_free = !m_axi_arvalid || m_axi_arready;
  wire logic issue        = burst_valid && burst_ready;

  assign burst_ready = list_ready && (burst_bad || address_free) && !flushing_q;

  residue_fifo #(
    .WidthBits   (PendingBits),
    .DepthEntries(MaxOutstanding)
  ) i_pending (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(1'b0),
    .s_valid(issue),
    .s_ready(list_ready),
    .s_data ({burst_tag, burst_low, burst_high, burst_last, burst_bad}),
    .m_valid(pending_valid),
    .m_ready(pending_done),
    .m_data (pending)
  );

  assign m_axi_arid    = 1'b0;
  assign m_axi_arsize  = 3'($clog2(AxiDataBits / 8));
  assign m_axi_arburst = 2'b01;
  assign m_axi_arcache = 4'b0011;
  assign m_axi_arprot  = 3'b000;

  always_ff @(posedge clk) begin
    if (issue && !burst_bad) begin
      m_axi_araddr <= burst_addr;
      m_axi_arlen  <= 8'(burst_beats - 16'd1);
    end
    if (!rst_n) m_axi_arvalid <= 1'b0;
    else if (address_free) m_axi_arvalid <= issue && !burst_bad;
  end

  // Data
  logic first_q;  // the next beat is the first of its burst

  wire logic room   = ((pending.targets & ~room_i) == '0) || flushing_q;
  wire logic take   = m_axi_rvalid && m_axi_rready;
  wire logic answer = pending_valid && pending.bad && room;

  assign m_axi_rready = pending_valid && !pending.bad && room;
  assign pending_done = answer || (take && m_axi_rlast);

  always_ff @(posedge clk) begin
    m_data  <= (take && !clear) ? m_axi_rdata : '0;
    m_low   <= (first_q && !pending.bad) ? pending.low : '0;
    m_high  <= pending.bad ? '0 : (m_axi_rlast ? pending.high : PlaceBits'(Rows - 1));
    m_tag   <= pending.tag;
    m_last  <= pending.bad || (pending.last && m_axi_rlast);
    m_error <= pending.bad || m_axi_rresp[1];
    if (!rst_n || clear) m_valid <= '0;
    else                 m_valid <= (take || answer) ? pending.targets : '0;
    if (!rst_n)    first_q <= 1'b1;
    else if (take) first_q <= m_axi_rlast;
  end

  // State
  assign idle_o = !flushing_q && split_idle && !pending_valid && (m_valid == '0);

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      flushing_q     <= 1'b0;
      error_window_o <= 1'b0;
      error_axi_o    <= 1'b0;
    end else begin
      flushing_q <= flush_i || (flushing_q && pending_valid);
      if (clear || error_clear_i) begin
        error_window_o <= 1'b0;
        error_axi_o    <= 1'b0;
      end else begin
        if (answer) error_window_o <= 1'b1;
        if (take && m_axi_rresp[1]) error_axi_o <= 1'b1;
      end
    end
  end

  wire logic unused = &{1'b0, m_axi_rid, m_axi_rresp[0], burst_single, burst_none};

`ifndef SYNTHESIS
  a_ar_holds : assert property (@(posedge clk) disable iff (!rst_n)
      m_axi_arvalid && !m_axi_arready |=> m_axi_arvalid && $stable(m_axi_araddr) &&
      $stable(m_axi_arlen));
  a_ar_in_window : assert property (@(posedge clk) disable iff (!rst_n)
      $rose(m_axi_arvalid) |-> m_axi_araddr >= mem_base_i && m_axi_araddr < mem_limit_i);
  a_has_target : assert property (@(posedge clk) disable iff (!rst_n)
      s_req_valid |-> s_req_targets != '0);
`endif

endmodule

`default_nettype wire
