// First-in first-out queue of beats in distributed memory, filled without back-pressure.
//
// `room_o` comes from a register; s_valid may be high in the cycle after one with `room_o` high, and
// in no other. So a source may register its beat on the way without a skid buffer. The last three
// entries may stay unused. One beat a cycle in and out; a beat is seen at the output two cycles
// after it went in.
// A pulse on clear_i empties the queue and overwrites all of its memory with zeros, DepthBeats
// cycles; room_o and idle_o are low until that is done.
// Cost: 8 LUTs for 14 bits at a depth of 32 (RAM32M16), and the pointers.
// Not for: a few entries of a few bits (residue_fifo), depths of which block memory should be made.
`default_nettype none

module residue_beat_queue #(
  parameter int unsigned WidthBits  = 128,
  parameter int unsigned DepthBeats = 32  // a power of two, at least 8
) (
  input  wire  logic                 clk,
  input  wire  logic                 rst_n,
  input  wire  logic                 clear_i,
  output       logic                 room_o,
  output       logic                 half_o,  // at least half of it is in use
  output       logic                 idle_o,  // empty, nothing on its way in, not clearing
  input  wire  logic                 s_valid,
  input  wire  logic [WidthBits-1:0] s_data,
  output       logic                 m_valid,
  input  wire  logic                 m_ready,
  output       logic [WidthBits-1:0] m_data
);

  localparam int unsigned IndexBits = $clog2(DepthBeats);
  // On their way while room_o is still high: before the input, in the input register, being counted,
  // counted in the cycle in which room_o is found.
  localparam int unsigned SlackBeats = 4;

  if (DepthBeats < 8 || DepthBeats != (1 << IndexBits)) begin : g_depth_illegal
    $error("DepthBeats must be a power of two, at least 8");
  end

  logic [WidthBits-1:0] mem_q [DepthBeats];
  logic [WidthBits-1:0] in_q;
  logic                 in_valid_q, clearing_q;
  logic [IndexBits-1:0] write_q, read_q;
  logic [IndexBits:0]   count_q;

  wire logic clear = clear_i || clearing_q;
  wire logic pop   = m_valid && m_ready;

  assign m_data  = mem_q[read_q];
  assign half_o  = (count_q >= (IndexBits + 1)'(DepthBeats / 2));
  assign idle_o  = !m_valid && !in_valid_q && !clearing_q;

  always_ff @(posedge clk) begin
    in_q <= (s_valid && !clear) ? s_data : '0;
    if (in_valid_q || clearing_q) mem_q[write_q] <= in_q;
    if (!rst_n || clear_i) begin
      in_valid_q <= 1'b0;
      write_q    <= '0;
      read_q     <= '0;
      count_q    <= '0;
      m_valid    <= 1'b0;
      room_o     <= 1'b0;
    end else begin
      in_valid_q <= s_valid && !clearing_q;
      if (in_valid_q || clearing_q) write_q <= write_q + 1'b1;
      if (pop) read_q <= read_q + 1'b1;
      if (in_valid_q != pop) count_q <= pop ? count_q - 1'b1 : count_q + 1'b1;
      m_valid <= in_valid_q || (m_valid && !(pop && count_q == (IndexBits + 1)'(1)));
      room_o  <= !clearing_q && (count_q <= (IndexBits + 1)'(DepthBeats - SlackBeats));
    end
    if (!rst_n) clearing_q <= 1'b0;
    else        clearing_q <= clear_i || (clearing_q && !(&write_q));
  end

`ifndef SYNTHESIS
  a_room : assert property (@(posedge clk) disable iff (!rst_n || clear)
      in_valid_q && !pop |-> !count_q[IndexBits]);
  a_valid : assert property (@(posedge clk) disable iff (!rst_n) m_valid == (count_q != '0));
  a_valid_holds : assert property (@(posedge clk) disable iff (!rst_n || clear)
      m_valid && !m_ready |=> m_valid && $stable(m_data));
`endif

endmodule

`default_nettype wire
