  // In order, nothing lost, nothing invented: any one datum (f_mark picks it) leaves after exactly
  // those that were inside when it entered. Once valid, the output holds until it is taken.
  logic f_any_mark;  // undriven: anything in every cycle
  wire logic f_mark = f_any_mark;
  logic                 f_inside_q;
  logic [IndexBits:0]   f_ahead_q, f_count_q;
  logic [WidthBits-1:0] f_data_q;
  wire logic [IndexBits-1:0] f_place = read_q + f_ahead_q[IndexBits-1:0];

  always_ff @(posedge clk) begin
    if (!rst_n || clear_i) begin
      f_inside_q <= 1'b0;
      f_count_q  <= '0;
    end else begin
      f_count_q <= f_count_q + (IndexBits + 1)'(push) - (IndexBits + 1)'(pop);
      if (!f_inside_q && push && f_mark) begin
        f_inside_q <= 1'b1;
        f_ahead_q  <= f_count_q - (IndexBits + 1)'(pop);
        f_data_q   <= s_data;
      end else if (f_inside_q && pop) begin
        f_inside_q <= (f_ahead_q != '0);
        f_ahead_q  <= f_ahead_q - 1'b1;
      end
    end
  end

  always_ff @(posedge clk) if (f_run_q) begin
    a_count    : assert (count_q == f_count_q && f_count_q <= (IndexBits + 1)'(DepthEntries));
    a_pointers : assert (write_q == read_q + count_q[IndexBits-1:0]);
    a_ready    : assert (s_ready == (f_count_q < (IndexBits + 1)'(DepthEntries)));
    a_valid    : assert (m_valid == (f_count_q != '0));
    if (f_inside_q) begin
      a_inside : assert (f_ahead_q < f_count_q && mem_q[f_place] == f_data_q);
      if (f_ahead_q == '0) a_in_order : assert (m_valid && m_data == f_data_q);
    end
    if ($past(f_run_q && rst_n && !clear_i && m_valid && !m_ready))
      a_holds : assert (m_valid && $stable(m_data));
  end
