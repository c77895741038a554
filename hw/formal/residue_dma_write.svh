  // 128-bit beats. Requests of at most three rows anywhere in memory, their rows at any time after
  // them; a memory that takes addresses and data in any interleaving and acknowledges at any time.
  always_comb begin
    assume (!flush_i && !clear_i && mem_base_i <= mem_limit_i);
    assume (s_req_rows <= 16'd3);
  end
  logic [63:0] f_base, f_limit;
  always_ff @(posedge clk) begin
    f_base  <= f_run_q ? f_base : mem_base_i;
    f_limit <= f_run_q ? f_limit : mem_limit_i;
  end
  always_comb if (f_run_q) assume (mem_base_i == f_base && mem_limit_i == f_limit);

  // Rows owed by the source, and those of good requests that the bus must see.
  localparam int unsigned FBits = 6;
  wire logic f_take = s_req_valid && s_req_ready;
  wire logic [64:0] f_end = {1'b0, s_req_addr} + 65'(s_req_rows) * 65'd16;
  wire logic f_good = s_req_rows != '0 && s_req_addr[3:0] == '0 && s_req_addr >= f_base &&
                      f_end <= {1'b0, f_limit};
  logic [FBits-1:0] f_owed_q, f_wanted_q, f_sent_q;
  // Bursts: announced addresses (their lengths in order), finished data, acknowledgements.
  logic [7:0] f_len_q [8];
  logic [2:0] f_announced_q, f_addressed_q, f_finished_q, f_acknowledged_q;
  logic [7:0] f_beat_q;
  logic f_aw_waits_q;
  wire logic f_new  = m_axi_awvalid && !f_aw_waits_q;
  wire logic f_w    = m_axi_wvalid && m_axi_wready;
  wire logic [7:0] f_len = (f_new && f_announced_q == f_finished_q) ? m_axi_awlen
                                                                   : f_len_q[f_finished_q];
  always_ff @(posedge clk) begin
    if (f_new) f_len_q[f_announced_q] <= m_axi_awlen;
    if (!rst_n) begin
      {f_owed_q, f_wanted_q, f_sent_q} <= '0;
      {f_announced_q, f_addressed_q, f_finished_q, f_acknowledged_q} <= '0;
      f_beat_q     <= '0;
      f_aw_waits_q <= 1'b0;
    end else begin
      f_owed_q   <= f_owed_q + (f_take ? FBits'(s_req_rows) : '0) - FBits'(s_valid);
      f_wanted_q <= f_wanted_q + ((f_take && f_good) ? FBits'(s_req_rows) : '0);
      f_sent_q   <= f_sent_q + FBits'(f_w);
      f_announced_q    <= f_announced_q + 3'(f_new);
      f_addressed_q    <= f_addressed_q + 3'(m_axi_awvalid && m_axi_awready);
      f_finished_q     <= f_finished_q + 3'(f_w && m_axi_wlast);
      f_acknowledged_q <= f_acknowledged_q + 3'(m_axi_bvalid);
      if (f_w) f_beat_q <= m_axi_wlast ? 8'd0 : f_beat_q + 8'd1;
      f_aw_waits_q <= m_axi_awvalid && !m_axi_awready;
    end
  end
  always_comb begin
    if (f_owed_q == '0) assume (!s_valid);
    if (f_acknowledged_q == f_finished_q || f_acknowledged_q == f_addressed_q)
      assume (!m_axi_bvalid);
  end
  always_ff @(posedge clk) if (f_run_q && !$past(room_o)) assume (!s_valid);

  always_ff @(posedge clk) if (f_run_q && $past(f_run_q && rst_n) && rst_n) begin
    if (m_axi_awvalid) begin
      a_page   : assert (m_axi_awlen < 8'd64 &&
                         13'(m_axi_awaddr[11:0]) + ((13'(m_axi_awlen) + 13'd1) << 4) <= 13'd4096);
      a_window : assert (m_axi_awaddr >= f_base &&
          {1'b0, m_axi_awaddr} + ((65'(m_axi_awlen) + 65'd1) << 4) <= {1'b0, f_limit});
    end
    if ($past(m_axi_awvalid && !m_axi_awready))
      a_address_holds : assert (m_axi_awvalid && $stable({m_axi_awaddr, m_axi_awlen}));
    if ($past(m_axi_wvalid && !m_axi_wready))
      a_data_holds : assert (m_axi_wvalid && $stable({m_axi_wdata, m_axi_wstrb, m_axi_wlast}));
    // Data follows its address, and ends with its burst.
    if (m_axi_wvalid) begin
      a_announced : assert (f_new || f_announced_q != f_finished_q);
      a_last      : assert (m_axi_wlast == (f_beat_q == f_len));
    end
    // Never more beats than good requests asked for; all of them, acknowledged, when it is idle.
    a_no_more : assert (FBits'(f_wanted_q - f_sent_q) < FBits'(2 ** (FBits - 1)));
    if (idle_o) a_idle : assert (f_sent_q == f_wanted_q && f_owed_q == '0 &&
                                 f_acknowledged_q == f_announced_q);
  end
