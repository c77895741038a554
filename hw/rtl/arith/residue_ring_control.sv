// Which pass of which product enters a ring next, and what to do with what leaves it.
//
// A slot group is S = slots_i cycles of the ring: one pass of one product. Groups start at least S
// cycles apart, exactly S when there is work. A pass that came back waits one group at most, since
// it goes before new requests; so requests are taken only when none waits, and products finish in
// the order of their requests.
//
// After a reset nothing starts for FlushCycles: what the reset cut off must have left the ring.
//
// Timing depends on request times, slots_i and passes_i alone; the two may change while idle_o.
// Cost: about 100 LUT.
`default_nettype none

module residue_ring_control #(
    parameter int unsigned TagBits = 8,
    parameter int unsigned FlushCycles = 335,
    parameter int unsigned DepthGroups = 32  // groups in flight, a power of two
) (
    input  wire                clk,
    input  wire                rst_n,
    input  wire  [        7:0] slots_i,
    input  wire  [        7:0] passes_i,
    input  wire                s_req_valid,
    output logic               s_req_ready,
    input  wire  [TagBits-1:0] s_req_tag,
    output logic               m_fetch_valid,  // one cycle at the start of each group
    output logic [TagBits-1:0] m_fetch_tag,
    output logic [        7:0] m_fetch_pass,
    input  wire                leave_i,        // the first word of the oldest group leaves
    output logic               leave_last_o,   // it was the last pass of its product
    output logic [TagBits-1:0] leave_tag_o,
    output logic               idle_o
);

  localparam int unsigned WaitBits = FlushCycles < 256 ? 8 : $clog2(FlushCycles + 1);
  localparam int unsigned PointerBits = $clog2(DepthGroups);
  if (DepthGroups != 2 ** PointerBits) begin : g_illegal
    $error("residue_ring_control: DepthGroups must be a power of two");
  end

  logic [WaitBits-1:0] wait_q;  // cycles until the next group may start
  // A group is {pass, tag}; in flight it has before them whether that pass is the last.
  logic [8+TagBits-1:0] again_q;
  logic again_valid_q;
  logic [9+TagBits-1:0] flight_q[DepthGroups];
  logic [PointerBits:0] put_q, take_q;

  wire [8+TagBits-1:0] next = again_valid_q ? again_q : {8'd0, s_req_tag};
  wire next_last = next[8+TagBits-1:TagBits] + 8'd1 == passes_i;
  wire [7:0] leave_pass;
  assign {leave_last_o, leave_pass, leave_tag_o} = flight_q[take_q[PointerBits-1:0]];
  assign s_req_ready                             = wait_q == '0 && !again_valid_q;
  assign idle_o                                  = put_q == take_q && !again_valid_q;

  wire start = wait_q == '0 && (again_valid_q || s_req_valid);
  wire returns = leave_i && !leave_last_o;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      wait_q        <= WaitBits'(FlushCycles);
      again_valid_q <= 1'b0;
      m_fetch_valid <= 1'b0;
      put_q         <= '0;
      take_q        <= '0;
    end else begin
      if (start) wait_q <= WaitBits'(slots_i) - 1'b1;
      else if (wait_q != '0) wait_q <= wait_q - 1'b1;
      if (returns) again_valid_q <= 1'b1;
      else if (start) again_valid_q <= 1'b0;
      m_fetch_valid <= start;
      if (start) put_q <= put_q + 1'b1;
      if (leave_i) take_q <= take_q + 1'b1;
    end
  end

  always_ff @(posedge clk) begin
    if (start) flight_q[put_q[PointerBits-1:0]] <= {next_last, next};
    if (returns) again_q <= {leave_pass + 8'd1, leave_tag_o};
    {m_fetch_pass, m_fetch_tag} <= next;
  end

`ifndef SYNTHESIS
  a_flight_fits : assert property (@(posedge clk) disable iff (!rst_n)
      start |-> put_q - take_q != (PointerBits + 1)'(DepthGroups));
  a_leaves_known : assert property (@(posedge clk) disable iff (!rst_n)
      leave_i |-> put_q != take_q);
  a_one_waits : assert property (@(posedge clk) disable iff (!rst_n)
      returns |-> !again_valid_q || start);
`endif

endmodule

`default_nettype wire
