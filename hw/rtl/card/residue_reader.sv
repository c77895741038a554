// Card memory to row streams: several requesters and several lanes on one AXI4 read master.
//
// Requests are ranges of rows of 16 bytes, taken round-robin (port 0 first if Priority is set), and
// answered in the order in which they were taken. A request names the set of streams, its targets,
// that each get all its rows, one row a cycle a stream: {tag, number within the request, last,
// error}. The streams drain in parallel: while one lane takes a beat row by row the bus fills the
// queues of the others. With 128 * L bits, L lanes take one row a cycle each, as long as their
// residues fill whole beats.
// Freedom from deadlock: beats leave the bus in request order, so a stream that does not drain stops
// the others once its queue is full. A stream must therefore drain without waiting for another
// stream, for a write, or for a later request: its consumer asks only for rows whose place is free.
// A refused request (window, alignment, no rows: see residue_dma_read) answers each of its targets
// with one row that has `error` and `last` set.
// flush_i (soft reset) drops everything, drains the bus and zeroes all memory; clear_i, only while
// idle_o is high, zeroes all memory. idle_o is low until that is done, about QueueBeats cycles.
// idle_o: nothing is asked for, in flight, or undelivered; it may still be high in the cycle in
// which a request is accepted.
// Neither latency nor bus traffic depends on data.
`default_nettype none

module residue_reader #(
  parameter int unsigned AxiDataBits    = 128,   // 128, 256 or 512
  parameter int unsigned Ports          = 2,     // requesters
  parameter int unsigned Targets        = 1,     // streams of rows
  parameter bit          Priority       = 1'b1,  // port 0 goes before all others
  parameter int unsigned TagBits        = 4,
  parameter int unsigned IndexBits      = 16,
  parameter int unsigned MaxOutstanding = 16,    // bursts, a power of two
  parameter int unsigned QueueBeats     = 32     // of each stream, a power of two
) (
  input  wire  logic                              clk,
  input  wire  logic                              rst_n,
  input  wire  logic                              flush_i,
  input  wire  logic                              clear_i,
  input  wire  logic                              error_clear_i,
  input  wire  logic [63:0]                       mem_base_i,   // inclusive
  input  wire  logic [63:0]                       mem_limit_i,  // exclusive
  output       logic                              idle_o,
  output       logic                              error_window_o,
  output       logic                              error_axi_o,
  // Requests
  input  wire  logic [Ports-1:0]                  s_req_valid,
  output       logic [Ports-1:0]                  s_req_ready,
  input  wire  logic [Ports-1:0][63:0]            s_req_addr,
  input  wire  logic [Ports-1:0][15:0]            s_req_rows,
  input  wire  logic [Ports-1:0][TagBits-1:0]     s_req_tag,
  input  wire  logic [Ports-1:0][Targets-1:0]     s_req_targets,
  // Rows
  output       logic [Targets-1:0]                m_valid,
  input  wire  logic [Targets-1:0]                m_ready,
  output       logic [Targets-1:0][127:0]         m_data,
  output       logic [Targets-1:0][TagBits-1:0]   m_tag,
  output       logic [Targets-1:0][IndexBits-1:0] m_index,
  output       logic [Targets-1:0]                m_last,
  output       logic [Targets-1:0]                m_error,
  // AXI4 read channels
  output       logic [0:0]                        m_axi_arid,
  output       logic [63:0]                       m_axi_araddr,
  output       logic [7:0]                        m_axi_arlen,
  output       logic [2:0]                        m_axi_arsize,
  output       logic [1:0]                        m_axi_arburst,
  output       logic [3:0]                        m_axi_arcache,
  output       logic [2:0]                        m_axi_arprot,
  output       logic                              m_axi_arvalid,
  input  wire  logic                              m_axi_arready,
  input  wire  logic [0:0]                        m_axi_rid,
  input  wire  logic [AxiDataBits-1:0]            m_axi_rdata,
  input  wire  logic [1:0]                        m_axi_rresp,
  input  wire  logic                              m_axi_rlast,
  input  wire  logic                              m_axi_rvalid,
  output       logic                              m_axi_rready
);

  localparam int unsigned PlaceBits   = (AxiDataBits == 128) ? 1 : $clog2(AxiDataBits / 128);
  localparam int unsigned PortBits    = (Ports == 1) ? 1 : $clog2(Ports);
  localparam int unsigned RequestBits = Targets + TagBits + 16 + 64;

  typedef struct packed {
    logic [Targets-1:0] targets;
    logic [TagBits-1:0] tag;
    logic [15:0]        rows;
    logic [63:0]        addr;
  } request_t;

  // Requests
  logic [Ports-1:0][RequestBits-1:0] asked;
  request_t                          request;
  logic                              request_valid, request_ready;
  logic [PortBits-1:0]               request_port;

  for (genvar i = 0; i < Ports; i++) begin : g_ports
    assign asked[i] = {s_req_targets[i], s_req_tag[i], s_req_rows[i], s_req_addr[i]};
  end

  residue_arbiter #(
    .Ports    (Ports),
    .WidthBits(RequestBits),
    .Priority (Priority)
  ) i_arbiter (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(flush_i),
    .s_valid(s_req_valid),
    .s_ready(s_req_ready),
    .s_data (asked),
    .m_valid(request_valid),
    .m_ready(request_ready),
    .m_data (request),
    .m_port (request_port)
  );

  // Beats
  logic                   dma_idle;
  logic [Targets-1:0]     room, beat_valid, unpack_idle;
  logic [AxiDataBits-1:0] beat_data;
  logic [PlaceBits-1:0]   beat_low, beat_high;
  logic                   beat_last, beat_error;
  logic [TagBits-1:0]     beat_tag;

  residue_dma_read #(
    .AxiDataBits   (AxiDataBits),
    .MaxOutstanding(MaxOutstanding),
    .TagBits       (TagBits),
    .Targets       (Targets)
  ) i_dma (
    .clk           (clk),
    .rst_n         (rst_n),
    .flush_i       (flush_i),
    .error_clear_i (error_clear_i),
    .mem_base_i    (mem_base_i),
    .mem_limit_i   (mem_limit_i),
    .idle_o        (dma_idle),
    .error_window_o(error_window_o),
    .error_axi_o   (error_axi_o),
    .s_req_valid   (request_valid),
    .s_req_ready   (request_ready),
    .s_req_addr    (request.addr),
    .s_req_rows    (request.rows),
    .s_req_tag     (request.tag),
    .s_req_targets (request.targets),
    .room_i        (room),
    .m_valid       (beat_valid),
    .m_data        (beat_data),
    .m_low         (beat_low),
    .m_high        (beat_high),
    .m_last        (beat_last),
    .m_error       (beat_error),
    .m_tag         (beat_tag),
    .m_axi_arid    (m_axi_arid),
    .m_axi_araddr  (m_axi_araddr),
    .m_axi_arlen   (m_axi_arlen),
    .m_axi_arsize  (m_axi_arsize),
    .m_axi_arburst (m_axi_arburst),
    .m_axi_arcache (m_axi_arcache),
    .m_axi_arprot  (m_axi_arprot),
    .m_axi_arvalid (m_axi_arvalid),
    .m_axi_arready (m_axi_arready),
    .m_axi_rid     (m_axi_rid),
    .m_axi_rdata   (m_axi_rdata),
    .m_axi_rresp   (m_axi_rresp),
    .m_axi_rlast   (m_axi_rlast),
    .m_axi_rvalid  (m_axi_rvalid),
    .m_axi_rready  (m_axi_rready)
  );

  // Rows
  for (genvar i = 0; i < Targets; i++) begin : g_targets
    residue_row_unpack #(
      .AxiDataBits(AxiDataBits),
      .TagBits    (TagBits),
      .IndexBits  (IndexBits),
      .QueueBeats (QueueBeats)
    ) i_unpack (
      .clk    (clk),
      .rst_n  (rst_n),
      .clear_i(flush_i || clear_i),
      .idle_o (unpack_idle[i]),
      .room_o (room[i]),
      .s_valid(beat_valid[i]),
      .s_data (beat_data),
      .s_low  (beat_low),
      .s_high (beat_high),
      .s_last (beat_last),
      .s_error(beat_error),
      .s_tag  (beat_tag),
      .m_valid(m_valid[i]),
      .m_ready(m_ready[i]),
      .m_data (m_data[i]),
      .m_tag  (m_tag[i]),
      .m_index(m_index[i]),
      .m_last (m_last[i]),
      .m_error(m_error[i])
    );
  end

  // Nothing came to the streams in the cycle before, and nothing was left in them.
  logic streams_idle_q;
  always_ff @(posedge clk)
    streams_idle_q <= rst_n && !flush_i && !clear_i && (beat_valid == '0) && (&unpack_idle);

  assign idle_o = !request_valid && dma_idle && streams_idle_q;

  wire logic unused = &{1'b0, request_port};

`ifndef SYNTHESIS
  a_clear_while_idle : assert property (@(posedge clk) disable iff (!rst_n)
      clear_i |-> idle_o || flush_i);
`endif

endmodule

`default_nettype wire
