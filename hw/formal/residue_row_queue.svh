  // In order, nothing lost, nothing invented: any one datum (f_mark picks it) leaves after exactly
  // those that were inside when it entered, and without a false alarm of the parity. Once valid,
  // the output holds until it is taken.
  localparam int unsigned FBits = $clog2(DepthEntries + 3);
  logic f_any_mark;  // undriven: anything in every cycle
  wire logic f_mark = f_any_mark;
  logic                 f_inside_q;
  logic [FBits-1:0]     f_ahead_q, f_count_q;
  logic [WidthBits-1:0] f_data_q;
  wire logic pop = m_valid && m_ready;

  always_ff @(posedge clk) begin
    if (!rst_n || clear_i) begin
      f_inside_q <= 1'b0;
      f_count_q  <= '0;
    end else begin
      f_count_q <= f_count_q + FBits'(push) - FBits'(pop);
      if (!f_inside_q && push && f_mark) begin
        f_inside_q <= 1'b1;
        f_ahead_q  <= f_count_q - FBits'(pop);
        f_data_q   <= s_data;
      end else if (f_inside_q && pop) begin
        f_inside_q <= (f_ahead_q != '0);
        f_ahead_q  <= f_ahead_q - FBits'(1);
      end
    end
  end

  // Cycles in which something was inside and the output empty.
  wire logic f_waits = !m_valid && f_count_q != '0;
  logic [2:0] f_wait_q;
  always_ff @(posedge clk) f_wait_q <= (rst_n && !clear_i && f_waits) ? f_wait_q + 3'd1 : 3'd0;

  always_ff @(posedge clk) if (f_run_q) begin
    a_room     : assert (f_count_q <= FBits'(DepthEntries + 2));
    a_ready    : assert (s_ready || f_count_q >= FBits'(DepthEntries));
    a_valid    : assert (!m_valid || f_count_q != '0);
    a_progress : assert (!f_waits || f_wait_q < 3'd3);
    a_parity   : assert (!error_o);
    if (f_inside_q && m_valid && f_ahead_q == '0) a_in_order : assert (m_data == f_data_q);
    if ($past(f_run_q && rst_n && !clear_i && m_valid && !m_ready))
      a_holds : assert (m_valid && $stable(m_data));
  end
