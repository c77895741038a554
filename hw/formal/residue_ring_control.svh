  // The ring is a pipe: what starts in a cycle leaves F_LATENCY cycles later, which is at least a
  // group's cycles. F_SLOTS and F_PASSES are the job's.
  logic [`F_LATENCY-1:0] f_pipe_q;
  always_ff @(posedge clk) f_pipe_q <= rst_n ? {f_pipe_q[`F_LATENCY-2:0], m_fetch_valid} : '0;
  always_comb begin
    assume (slots_i == 8'd`F_SLOTS && passes_i == 8'd`F_PASSES);
    assume (leave_i == f_pipe_q[`F_LATENCY-1]);
  end

  // Products are numbered as they enter; the tag of a proof is that number.
  logic [TagBits-1:0] f_in_q, f_out_q;
  logic [7:0] f_since_q, f_flush_q;
  logic f_started_q;
  wire logic f_take = s_req_valid && s_req_ready;
  always_comb assume (s_req_tag == f_in_q);

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      f_in_q      <= '0;
      f_out_q     <= '0;
      f_started_q <= 1'b0;
      f_flush_q   <= '0;
    end else begin
      if (f_take) f_in_q <= f_in_q + 1'b1;
      if (leave_i && leave_last_o) f_out_q <= f_out_q + 1'b1;
      if (m_fetch_valid) f_started_q <= 1'b1;
      if (!(&f_flush_q)) f_flush_q <= f_flush_q + 8'd1;
    end
    f_since_q <= m_fetch_valid ? 8'd1 : (&f_since_q) ? f_since_q : f_since_q + 8'd1;
  end

  always_ff @(posedge clk) if (f_run_q && rst_n) begin
    if (m_fetch_valid && f_started_q) a_rate : assert (f_since_q >= slots_i);
    if (m_fetch_valid) a_flushed : assert (f_flush_q > 8'(FlushCycles));
    if (leave_i) a_known : assert (put_q != take_q);
    if (start) a_fits : assert (put_q - take_q != (PointerBits + 1)'(DepthGroups));
    if (returns) a_one_waits : assert (!again_valid_q || start);
    if (leave_i && leave_last_o) a_in_order : assert (leave_tag_o == f_out_q);
    // Full rate: a waiting request or pass starts when the last group's cycles are over.
    if (f_started_q && $past(f_run_q && rst_n && f_started_q && s_req_valid) && !m_fetch_valid)
      a_full_rate : assert (f_since_q < slots_i);
  end
