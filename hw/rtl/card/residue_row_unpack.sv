// Beats to rows of 128 bits: one row a cycle, in order, with its number within the request.
//
// The beats wait in a queue, so that the bus goes on to the next lane while this one drains:
// QueueBeats is chosen such that it holds the beats of a residue. Beats enter without
// back-pressure, under the rule of residue_beat_queue. Rows low..high of a beat are passed on.
// clear_i drops everything and zeroes all memory, QueueBeats cycles; idle_o is low until then.
// Latency: three cycles. Throughput: one row a cycle, also across beats and requests.
// Neither depends on data.
`default_nettype none

module residue_row_unpack #(
  parameter int unsigned  AxiDataBits = 128,  // 128, 256 or 512
  parameter int unsigned  TagBits     = 1,
  parameter int unsigned  IndexBits   = 16,
  parameter int unsigned  QueueBeats  = 32,
  localparam int unsigned Rows        = AxiDataBits / 128,
  localparam int unsigned PlaceBits   = (Rows == 1) ? 1 : $clog2(Rows)
) (
  input  wire  logic                   clk,
  input  wire  logic                   rst_n,
  input  wire  logic                   clear_i,
  output       logic                   idle_o,
  // Beats
  output       logic                   room_o,
  input  wire  logic                   s_valid,
  input  wire  logic [AxiDataBits-1:0] s_data,
  input  wire  logic [PlaceBits-1:0]   s_low,
  input  wire  logic [PlaceBits-1:0]   s_high,  // not below s_low
  input  wire  logic                   s_last,
  input  wire  logic                   s_error,
  input  wire  logic [TagBits-1:0]     s_tag,
  // Rows
  output       logic                   m_valid,
  input  wire  logic                   m_ready,
  output       logic [127:0]           m_data,
  output       logic [TagBits-1:0]     m_tag,
  output       logic [IndexBits-1:0]   m_index,
  output       logic                   m_last,
  output       logic                   m_error
);

  localparam int unsigned BeatBits = TagBits + 2 + 2 * PlaceBits + AxiDataBits;

  typedef struct packed {
    logic [TagBits-1:0]     tag;
    logic                   last;
    logic                   error;
    logic [PlaceBits-1:0]   high;
    logic [PlaceBits-1:0]   low;
    logic [AxiDataBits-1:0] data;
  } beat_t;

  beat_t beat;
  logic  queue_idle, beat_valid, half;

  logic                 begun_q;  // a row of the beat has left
  logic [PlaceBits-1:0] place_q;  // where the next one stands
  logic [IndexBits-1:0] index_q;

  wire logic [PlaceBits-1:0] place     = begun_q ? place_q : beat.low;
  wire logic                 beat_done = (Rows == 1) || (place == beat.high);
  wire logic                 free      = !m_valid || m_ready;
  wire logic                 take      = beat_valid && free;
  wire logic                 last      = beat.last && beat_done;

  residue_beat_queue #(
    .WidthBits (BeatBits),
    .DepthBeats(QueueBeats)
  ) i_queue (
    .clk    (clk),
    .rst_n  (rst_n),
    .clear_i(clear_i),
    .room_o (room_o),
    .half_o (half),
    .idle_o (queue_idle),
    .s_valid(s_valid),
    .s_data ({s_tag, s_last, s_error, s_high, s_low, s_data}),
    .m_valid(beat_valid),
    .m_ready(free && beat_done),
    .m_data (beat)
  );

  assign idle_o = queue_idle && !m_valid;

  logic [127:0] row;
  if (Rows == 1) begin : g_row
    assign row = beat.data;
  end else begin : g_rows
    assign row = beat.data[{place, 7'd0}+:128];
  end

  // The data register is zero whenever no row stands in it.
  always_ff @(posedge clk) begin
    if (clear_i || (free && !beat_valid)) m_data <= '0;
    else if (free) m_data <= row;
    if (free) begin
      m_tag   <= beat.tag;
      m_index <= index_q;
      m_last  <= last;
      m_error <= beat.error;
    end
    if (take) place_q <= place + 1'b1;
    if (!rst_n || clear_i) begin
      m_valid <= 1'b0;
      begun_q <= 1'b0;
      index_q <= '0;
    end else begin
      if (free) m_valid <= beat_valid;
      if (take) begin
        begun_q <= !beat_done;
        index_q <= last ? '0 : index_q + 1'b1;
      end
    end
  end

  wire logic unused = &{1'b0, half};

`ifndef SYNTHESIS
  a_order : assert property (@(posedge clk) disable iff (!rst_n) s_valid |-> s_low <= s_high);
  a_m_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_valid && !m_ready |=> m_valid && $stable(m_data) && $stable(m_tag) && $stable(m_index) &&
      $stable(m_last) && $stable(m_error));
`endif

endmodule

`default_nettype wire
