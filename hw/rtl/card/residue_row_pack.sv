// Rows of 128 bits to beats with a mark for each row, for one lane.
//
// A request first, then its rows, s_last with the last one; the next request is taken when all rows
// are in and the request was handed on. It is handed on when the rows are complete or half of the
// queue is full, so that the bus is never held for rows that are still to be computed, save those of
// a residue longer than half of the queue. The beats lie at the positions that the address implies.
// QueueBeats = 0, for 128 bits only: everything passes through, and the bus waits for rows.
// clear_i drops everything and zeroes all memory, QueueBeats cycles; idle_o is low until then.
// Throughput: one row a cycle; two cycles between requests. Neither depends on data.
`default_nettype none

module residue_row_pack #(
  parameter int unsigned  AxiDataBits = 128,  // 128, 256 or 512
  parameter int unsigned  QueueBeats  = 32,
  localparam int unsigned Rows        = AxiDataBits / 128
) (
  input  wire  logic                   clk,
  input  wire  logic                   rst_n,
  input  wire  logic                   clear_i,
  output       logic                   idle_o,
  // Requests
  input  wire  logic                   s_req_valid,
  output       logic                   s_req_ready,
  input  wire  logic [63:0]            s_req_addr,
  input  wire  logic [15:0]            s_req_rows,
  // Rows
  input  wire  logic                   s_valid,
  output       logic                   s_ready,
  input  wire  logic [127:0]           s_data,
  input  wire  logic                   s_last,
  // Requests whose beats follow
  output       logic                   m_req_valid,
  input  wire  logic                   m_req_ready,
  output       logic [63:0]            m_req_addr,
  output       logic [15:0]            m_req_rows,
  // Beats
  output       logic                   m_valid,
  input  wire  logic                   m_ready,
  output       logic [AxiDataBits-1:0] m_data,
  output       logic [Rows-1:0]        m_keep,
  output       logic                   m_last   // of the request
);

  if (QueueBeats == 0) begin : g_through
    if (Rows != 1) begin : g_width_illegal
      $error("QueueBeats may be 0 at 128 bits only");
    end
    assign idle_o      = 1'b1;
    assign s_req_ready = m_req_ready;
    assign m_req_valid = s_req_valid;
    assign m_req_addr  = s_req_addr;
    assign m_req_rows  = s_req_rows;
    assign s_ready     = m_ready;
    assign m_valid     = s_valid;
    assign m_data      = AxiDataBits'(s_data);
    assign m_keep      = Rows'(1);
    assign m_last      = s_last;

    wire logic unused = &{1'b0, clk, rst_n, clear_i};
  end else begin : g_queue
    localparam int unsigned PlaceBits = (Rows == 1) ? 1 : $clog2(Rows);

    logic                   waiting_q;  // a request was not yet handed on
    logic                   open_q;     // rows of it are to come
    logic                   half_q;     // the queue was half full since it came
    logic [PlaceBits-1:0]   place_q;    // of the next row in its beat
    logic [AxiDataBits-1:0] rows_q;
    logic [Rows-1:0]        keep_q;
    logic                   push_q, last_q;
    logic                   room, half, queue_idle;

    wire logic request = s_req_valid && s_req_ready;
    wire logic take    = s_valid && s_ready;
    wire logic full    = (place_q == PlaceBits'(Rows - 1));

    assign s_req_ready = !waiting_q && !open_q;
    assign s_ready     = open_q && room;
    assign m_req_valid = waiting_q && (!open_q || half_q);
    assign idle_o      = !waiting_q && !open_q && !push_q && queue_idle;

    always_ff @(posedge clk) begin
      if (request) begin
        m_req_addr <= s_req_addr;
        m_req_rows <= s_req_rows;
      end
      // The registers are zero where no row stands in them.
      for (int unsigned i = 0; i < Rows; i++) begin
        if (clear_i) begin
          rows_q[128*i+:128] <= '0;
          keep_q[i] <= 1'b0;
        end else if (take && place_q == PlaceBits'(i)) begin
          rows_q[128*i+:128] <= s_data;
          keep_q[i] <= 1'b1;
        end else if (push_q) begin
          rows_q[128*i+:128] <= '0;
          keep_q[i] <= 1'b0;
        end
      end
      if (take) last_q <= s_last;
      if (!rst_n || clear_i) begin
        waiting_q <= 1'b0;
        open_q    <= 1'b0;
        half_q    <= 1'b0;
        push_q    <= 1'b0;
      end else begin
        waiting_q <= request || (waiting_q && !(m_req_valid && m_req_ready));
        open_q    <= request || (open_q && !(take && s_last));
        half_q    <= waiting_q && (half || half_q);
        push_q    <= take && (full || s_last);
      end
      if (!rst_n) keep_q <= '0;
    end

    if (Rows == 1) begin : g_place
      assign place_q = '0;
    end else begin : g_places
      always_ff @(posedge clk) begin
        if (request) place_q <= s_req_addr[4+:PlaceBits];
        else if (take) place_q <= place_q + 1'b1;
      end
    end

    residue_beat_queue #(
      .WidthBits (1 + Rows + AxiDataBits),
      .DepthBeats(QueueBeats)
    ) i_queue (
      .clk    (clk),
      .rst_n  (rst_n),
      .clear_i(clear_i),
      .room_o (room),
      .half_o (half),
      .idle_o (queue_idle),
      .s_valid(push_q),
      .s_data ({last_q, keep_q, rows_q}),
      .m_valid(m_valid),
      .m_ready(m_ready),
      .m_data ({m_last, m_keep, m_data})
    );

`ifndef SYNTHESIS
    logic [15:0] left_q;  // rows to come
    always_ff @(posedge clk) begin
      if (request) left_q <= s_req_rows;
      else if (take) left_q <= left_q - 16'd1;
    end
    a_has_rows : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
        request |-> s_req_rows != '0);
    a_last_fits : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
        take |-> s_last == (left_q == 16'd1));
`endif
  end

`ifndef SYNTHESIS
  a_req_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_req_valid && !m_req_ready |=> m_req_valid && $stable(m_req_addr) && $stable(m_req_rows));
  a_m_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_valid && !m_ready |=> m_valid && $stable(m_data) && $stable(m_keep) && $stable(m_last));
`endif

endmodule

`default_nettype wire
