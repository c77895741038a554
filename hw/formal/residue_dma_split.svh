  // Any one request (f_mark picks it) becomes exactly its bursts, in turn with the requests before
  // it: together its beats, each within 4 KiB and MaxBurstBeats, all but the last as long as they
  // can be; or one `bad` burst exactly if it is malformed or leaves the window.
  logic [63:0] f_base, f_limit;
  logic f_any_mark;  // undriven: anything in every cycle
  wire logic f_mark = f_any_mark;
  logic        f_inside_q;
  logic [3:0]  f_ahead_q, f_held_q;  // requests ahead of it, requests inside
  logic [63:0] f_addr_q, f_next_q;
  logic [15:0] f_rows_q, f_left_q;
  logic        f_first_q;
  logic [TagBits-1:0] f_tag_q;

  // The window: any, the same for ever.
  always_ff @(posedge clk) begin
    f_base  <= f_run_q ? f_base : mem_base_i;
    f_limit <= f_run_q ? f_limit : mem_limit_i;
  end
  always_comb assume (mem_base_i <= mem_limit_i);
  always_comb if (f_run_q) assume (mem_base_i == f_base && mem_limit_i == f_limit);

  wire logic f_take = s_req_valid && s_req_ready;
  wire logic f_done = burst_done && m_burst_last;

  // The beats that a request touches, from its address and rows alone.
  localparam logic [64:0] FBeat = 65'(BeatBytes);
  wire logic [64:0] f_end   = ({1'b0, f_addr_q} + 65'(f_rows_q) * 65'd16 + FBeat - 65'd1) & ~(FBeat - 65'd1);
  wire logic [64:0] f_begin = {1'b0, f_addr_q} & ~(FBeat - 65'd1);
  wire logic [15:0] f_beats = 16'((f_end - f_begin) >> BeatLog2);
  wire logic f_bad = f_rows_q == '0 || f_addr_q[3:0] != '0 || f_begin[63:0] < f_base ||
                     f_end > {1'b0, f_limit};
  // Every burst ends where its page of MaxBurstBeats does, or with the request.
  localparam logic [63:0] FSpan = 64'(MaxBurstBeats * BeatBytes);
  always_ff @(posedge clk) begin
    if (!rst_n || clear_i) begin
      f_inside_q <= 1'b0;
      f_held_q   <= '0;
    end else begin
      f_held_q <= f_held_q + 4'(f_take) - 4'(f_done);
      if (!f_inside_q && f_take && f_mark) begin
        f_inside_q <= 1'b1;
        f_ahead_q  <= f_held_q - 4'(f_done);
        f_addr_q   <= s_req_addr;
        f_rows_q   <= s_req_rows;
        f_tag_q    <= s_req_tag;
        f_first_q  <= 1'b1;
      end else if (f_inside_q && f_ahead_q != '0) begin
        f_ahead_q <= f_ahead_q - 4'(f_done);
      end else if (f_inside_q && burst_done) begin
        f_inside_q <= !m_burst_last;
        f_first_q  <= 1'b0;
      end
      if (f_inside_q && f_ahead_q == '0 && burst_done) begin
        f_next_q <= m_burst_addr + (64'(m_burst_beats) << BeatLog2);
        f_left_q <= (f_first_q ? f_beats : f_left_q) - m_burst_beats;
      end
    end
  end

  wire logic f_mine = f_inside_q && f_ahead_q == '0 && m_burst_valid;
  wire logic [63:0] f_start = f_first_q ? f_begin[63:0] : f_next_q;
  wire logic [15:0] f_rest  = f_first_q ? f_beats : f_left_q;
  wire logic [15:0] f_page  = 16'((FSpan - (f_start & (FSpan - 64'd1))) >> BeatLog2);

  always_ff @(posedge clk) if (f_run_q) begin
    if (m_burst_valid && !m_burst_bad) begin
      a_length  : assert (m_burst_beats != '0 && m_burst_beats <= 16'(MaxBurstBeats));
      a_page    : assert (13'(m_burst_addr[11:0]) + (13'(m_burst_beats) << BeatLog2) <= 13'd4096);
      a_window  : assert (m_burst_addr >= f_base && {1'b0, m_burst_addr} +
                          (65'(m_burst_beats) << BeatLog2) <= {1'b0, f_limit});
      a_aligned : assert (m_burst_addr[BeatLog2-1:0] == '0);
    end
    if (m_burst_valid) begin
      a_single : assert (m_burst_single == (m_burst_beats == 16'd1));
      a_none   : assert (m_burst_none == (m_burst_beats == '0));
    end
    a_held : assert (m_burst_valid || f_held_q != 4'd4);
    if (f_held_q == '0) a_nothing_invented : assert (!m_burst_valid);
    a_idle : assert (idle_o == (f_held_q == '0));
    if (f_mine) begin
      a_bad   : assert (m_burst_bad == f_bad);
      a_tag   : assert (m_burst_tag == f_tag_q);
      a_start : assert (f_bad || m_burst_addr == f_start);
      a_beats : assert (f_bad || m_burst_beats == (f_rest <= f_page ? f_rest : f_page));
      a_last  : assert (m_burst_last == (f_bad || f_rest <= f_page));
      if (!f_bad && Rows > 1) begin
        a_low  : assert (32'(m_burst_low) == (f_first_q ? (32'(f_addr_q[11:4]) % 32'(Rows)) : 0));
        a_high : assert (32'(m_burst_high) == (m_burst_last
            ? ((32'(f_addr_q[11:4]) % 32'(Rows)) + 32'(f_rows_q) - 1) % 32'(Rows) : 32'(Rows) - 1));
      end
    end
    if ($past(f_run_q && rst_n && !clear_i && m_burst_valid && !m_burst_ready))
      a_holds : assert (m_burst_valid && $stable({m_burst_addr, m_burst_beats, m_burst_low,
                        m_burst_high, m_burst_last, m_burst_bad, m_burst_tag}));
  end
