  // 128-bit beats, one target. Requests of at most three rows anywhere in memory, numbered by their
  // tag; a memory that answers bursts in order, at any time, with any data and any errors.
  always_comb begin
    assume (!flush_i && mem_base_i <= mem_limit_i && s_req_targets == '1);
    assume (s_req_rows <= 16'd3);
  end
  logic [63:0] f_base, f_limit;
  always_ff @(posedge clk) begin
    f_base  <= f_run_q ? f_base : mem_base_i;
    f_limit <= f_run_q ? f_limit : mem_limit_i;
  end
  always_comb if (f_run_q) assume (mem_base_i == f_base && mem_limit_i == f_limit);

  // The memory: bursts taken and not answered, the oldest one's beats, what it owes in this cycle.
  logic [7:0] f_len_q [4];
  logic [1:0] f_put_q, f_get_q;
  logic [2:0] f_open_q;
  logic [7:0] f_beat_q;
  wire logic f_ar = m_axi_arvalid && m_axi_arready;
  wire logic f_r  = m_axi_rvalid && m_axi_rready;
  always_ff @(posedge clk) begin
    if (f_ar) f_len_q[f_put_q] <= m_axi_arlen;
    if (!rst_n) begin
      f_put_q  <= '0;
      f_get_q  <= '0;
      f_open_q <= '0;
      f_beat_q <= '0;
    end else begin
      f_put_q  <= f_put_q + 2'(f_ar);
      f_get_q  <= f_get_q + 2'(f_r && m_axi_rlast);
      f_open_q <= f_open_q + 3'(f_ar) - 3'(f_r && m_axi_rlast);
      if (f_r) f_beat_q <= m_axi_rlast ? 8'd0 : f_beat_q + 8'd1;
    end
  end
  always_comb begin
    if (f_open_q == '0) assume (!m_axi_rvalid);
    assume (m_axi_rlast == (f_beat_q == f_len_q[f_get_q]));
  end
  always_ff @(posedge clk)
    if (f_run_q && $past(f_run_q && rst_n && m_axi_rvalid && !m_axi_rready))
      assume (m_axi_rvalid && $stable({m_axi_rdata, m_axi_rresp}));

  // What each request must be answered with.
  logic [1:0]  f_rows_q [2 ** TagBits];
  logic        f_bad_q [2 ** TagBits];
  logic [TagBits-1:0] f_in_q, f_out_q;
  logic [1:0]  f_got_q;
  logic [AxiDataBits-1:0] f_data_q;  // what the bus gave last
  logic f_error_q;
  always_comb assume (s_req_tag == f_in_q);
  wire logic f_take = s_req_valid && s_req_ready;
  wire logic [64:0] f_end = {1'b0, s_req_addr} + 65'(s_req_rows) * 65'd16;
  always_ff @(posedge clk) begin
    f_data_q  <= m_axi_rdata;
    f_error_q <= m_axi_rresp[1];
    if (f_take) begin
      f_rows_q[f_in_q] <= s_req_rows[1:0];
      f_bad_q[f_in_q]  <= s_req_rows == '0 || s_req_addr[3:0] != '0 || s_req_addr < f_base ||
                          f_end > {1'b0, f_limit};
    end
    if (!rst_n) begin
      f_in_q  <= '0;
      f_out_q <= '0;
      f_got_q <= '0;
    end else begin
      f_in_q <= f_in_q + TagBits'(f_take);
      if (m_valid[0]) begin
        f_out_q <= f_out_q + TagBits'(m_last);
        f_got_q <= m_last ? 2'd0 : f_got_q + 2'd1;
      end
    end
  end
  wire logic f_last = f_bad_q[f_out_q] || f_got_q + 2'd1 == f_rows_q[f_out_q];

  always_ff @(posedge clk) if (f_run_q && $past(f_run_q && rst_n) && rst_n) begin
    if (m_axi_arvalid) begin
      a_page   : assert (m_axi_arlen < 8'd64 &&
                         13'(m_axi_araddr[11:0]) + ((13'(m_axi_arlen) + 13'd1) << 4) <= 13'd4096);
      a_window : assert (m_axi_araddr >= f_base &&
          {1'b0, m_axi_araddr} + ((65'(m_axi_arlen) + 65'd1) << 4) <= {1'b0, f_limit});
    end
    if ($past(m_axi_arvalid && !m_axi_arready))
      a_address_holds : assert (m_axi_arvalid && $stable({m_axi_araddr, m_axi_arlen}));
    // Every request is answered once, in order, with the beats that the bus gave for it.
    if (m_valid[0]) begin
      a_asked : assert (f_in_q != f_out_q && m_tag == f_out_q);
      a_last  : assert (m_last == f_last);
      a_room  : assert ($past(room_i[0]));
      if (f_bad_q[f_out_q]) a_refused : assert (m_error);
      else a_data : assert ($past(f_r) && m_data == f_data_q && m_error == f_error_q);
    end
    if ($past(f_r)) a_nothing_lost : assert (m_valid[0]);
    if (idle_o) a_idle : assert (f_in_q == f_out_q && f_open_q == '0 && !m_axi_arvalid);
  end
