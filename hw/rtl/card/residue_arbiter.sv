// Merges streams, one datum a cycle: round-robin, or port 0 before all others.
//
// The output stands in a register, so a choice once shown stays; one port passes through. A port
// that waits is served after at most one datum of each other port, unless port 0 has priority and
// never rests. Latency: one cycle. Not for: streams that must be kept together over several data.
`default_nettype none

module residue_arbiter #(
  parameter int unsigned  Ports     = 2,
  parameter int unsigned  WidthBits = 8,
  parameter bit           Priority  = 1'b0,  // port 0 goes first
  localparam int unsigned PortBits  = (Ports == 1) ? 1 : $clog2(Ports)
) (
  input  wire  logic                             clk,
  input  wire  logic                             rst_n,
  input  wire  logic                             clear_i,  // drop the datum held, and one that enters
  input  wire  logic [Ports-1:0]                 s_valid,
  output       logic [Ports-1:0]                 s_ready,
  input  wire  logic [Ports-1:0][WidthBits-1:0]  s_data,
  output       logic                             m_valid,
  input  wire  logic                             m_ready,
  output       logic [WidthBits-1:0]             m_data,
  output       logic [PortBits-1:0]              m_port
);

  if (Ports == 1) begin : g_single
    assign m_valid = s_valid[0];
    assign s_ready = m_ready;
    assign m_data  = s_data[0];
    assign m_port  = '0;

    wire logic unused = &{1'b0, clk, rst_n, clear_i};
  end else begin : g_several
    logic [Ports-1:0]    after_q;  // ports behind the last one served
    logic [Ports-1:0]    after, pick;  // ports behind the pick, the pick
    logic [PortBits-1:0] port;

    wire logic [Ports-1:0] behind = s_valid & after_q;
    wire logic             free   = !m_valid || m_ready;

    // Which ports have one of `ports` before them: a tree, as a chain is slow with many ports.
    function automatic logic [Ports-1:0] f_behind(input logic [Ports-1:0] ports);
      f_behind = ports << 1;
      for (int unsigned i = 1; i < Ports; i *= 2) f_behind = f_behind | (f_behind << i);
    endfunction

    always_comb begin
      after = (behind != '0) ? f_behind(behind) : f_behind(s_valid);
      pick  = (behind != '0) ? behind & ~f_behind(behind) : s_valid & ~f_behind(s_valid);
      if (Priority && s_valid[0]) pick = Ports'(1);
      port = '0;
      for (int unsigned i = 0; i < Ports; i++) if (pick[i]) port = port | PortBits'(i);
    end

    assign s_ready = free ? pick : '0;

    always_ff @(posedge clk) begin
      if (free) begin
        m_data <= s_data[port];
        m_port <= port;
      end
      if (!rst_n || clear_i) begin
        m_valid <= 1'b0;
        after_q <= '0;
      end else if (free) begin
        m_valid <= (s_valid != '0);
        if (s_valid != '0 && !(Priority && pick[0])) after_q <= after;
      end
    end
  end

`ifndef SYNTHESIS
  a_one_is_served : assert property (@(posedge clk) disable iff (!rst_n)
      $onehot0(s_valid & s_ready));
  a_m_holds : assert property (@(posedge clk) disable iff (!rst_n || clear_i)
      m_valid && !m_ready |=> m_valid && $stable(m_data) && $stable(m_port));
`endif

endmodule

`default_nettype wire
