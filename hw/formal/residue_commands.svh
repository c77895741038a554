  // The driver: a queue of a fixed place and size; TAIL moves forward over free entries only. The
  // memory, the lanes and the DMA answer anything at any time.
  logic [63:0] f_base;
  logic [15:0] f_size;
  logic [15:0] f_tail_q;
  wire logic [15:0] f_pending = tail_i - head_q;
  always_ff @(posedge clk) f_tail_q <= rst_n ? tail_i : '0;
  always_ff @(posedge clk) if (!f_run_q) {f_base, f_size} <= {queue_base_i, queue_size_i};
  always_comb begin
    assume (queue_size_i >= 16'd2 && queue_size_i <= 16'd1024);
    assume ((queue_size_i & (queue_size_i - 16'd1)) == '0);
    if (f_run_q) assume (queue_base_i == f_base && queue_size_i == f_size);
    if (f_run_q) assume (16'(tail_i - f_tail_q) <= f_size - 16'(f_tail_q - head_q));
  end

  // What happened since the command was taken up.
  logic f_started_q;
  logic [1:0] f_records_q;
  logic [2:0] f_beats_q;
  always_ff @(posedge clk) begin
    if (!rst_n || command_o) begin
      f_started_q <= 1'b0;
      f_records_q <= '0;
      f_beats_q   <= '0;
    end else begin
      f_started_q <= f_started_q || start_o;
      f_records_q <= f_records_q + 2'(m_write_valid && m_write_ready);
      f_beats_q   <= f_beats_q + 3'(m_data_valid && m_data_ready);
    end
  end

  // Whether the command may run, from the page of the ABI.
  wire logic f_self   = command.opcode == 8'd10;
  wire logic f_powers = command.opcode == 8'd4 || command.opcode == 8'd5 || command.opcode == 8'd6;
  wire logic f_combs  = command.opcode == 8'd5 || command.opcode == 8'd6;
  wire logic f_takes_a = !f_self && (!f_combs || command.flags[0]);
  wire logic f_takes_b = command.opcode == 8'd3 || f_combs;
  wire logic f_takes_e = f_powers || command.opcode == 8'd7;
  wire logic f_sound = f_fold(command) == 8'hA5;
  wire logic f_runs = command.opcode != 8'd0 && command.opcode <= 8'd10;
  wire logic f_aligned = command.modulus[3:0] == '0 && (!f_takes_a || command.src_a[3:0] == '0) &&
      (!f_takes_b || command.src_b[3:0] == '0) && (!f_takes_e || command.exponents[3:0] == '0) &&
      (f_self || command.dst[3:0] == '0);
  wire logic f_counted = (f_self || command.count != '0) &&
      (command.length != '0 || !(f_powers || f_self || command.opcode == 8'd7 ||
                                 command.opcode == 8'd8));
  wire logic f_windowed = !(f_powers || command.opcode == 8'd9) || command.window == 8'd4 ||
      (command.opcode != 8'd4 && (command.window == 8'd1 || command.window == 8'd2 ||
                                  command.window == 8'd8));
  wire logic [39:0] f_exponent = command.opcode == 8'd4 ? {8'd0, command.length}
                                                        : command.length * 40'(command.window[3:0]);
  wire logic f_short = !f_powers || (f_exponent <= 40'(MaxExponentBits) &&
      (command.stride_e == '0 || 40'(command.stride_e) * 40'd128 >= f_exponent));
  wire logic f_good = f_sound && f_runs && f_aligned && f_counted && f_windowed && f_short;
  wire logic f_shaped = header_k_q >= 64'd4 && header_k_q <= 64'(MaxWords) && !header_k_q[0];

  wire logic f_same = loaded_q && loaded_addr_q == command.modulus;

  // Cycles since the command, and since the head of its modulus, may last have changed.
  logic [2:0] f_steady_q, f_shape_q;
  always_ff @(posedge clk) begin
    f_steady_q <= (!rst_n || state_q == StFetchWait) ? '0 : f_steady_q + 3'(!(&f_steady_q));
    f_shape_q  <= (!rst_n || state_q == StHeaderWait) ? '0 : f_shape_q + 3'(!(&f_shape_q));
  end

  wire logic f_before = state_q inside {StIdle, StNext, StFetch, StFetchWait, StCheck};
  wire logic f_loading = state_q inside {StHeader, StHeaderWait, StShape, StShare, StPasses,
                                         StModulus, StModulusWait, StSplit, StStart};
  wire logic f_ending = state_q inside {StReport, StRecord, StRecordData, StRecordWait, StComplete};
  wire logic f_running = state_q inside {StRun, StAbort};
  wire logic f_clearing = state_q inside {StClearWait, StClear, StClearRun};

  always_ff @(posedge clk) if (f_run_q && $past(rst_n) && rst_n) begin
    // HEAD never passes TAIL, and moves by one, with a command's end.
    a_head : assert (f_pending <= f_size);
    a_owed : assert (state_q == StIdle || state_q == StNext || f_pending != '0);
    a_step : assert (head_q == $past(head_q) + 16'($past(command_o)));
    // Commands end in order, each with one record of four rows, in its own entry; but for one whose
    // descriptor could not be read, which ran nothing.
    a_records : assert (f_records_q ==
        2'(state_q == StRecordData || state_q == StRecordWait ||
           (state_q == StComplete && f_records_q != '0)));
    a_beats : assert (f_beats_q == (state_q == StRecordData ? 3'(beat_q)
                                    : f_records_q != '0 ? 3'd4 : 3'd0));
    if (command_o && f_records_q == '0) a_unread : assert (error_o && !f_started_q);
    if (state_q inside {StNext, StReport, StRecord})
      a_mask : assert (index_mask_q == f_size - 16'd1);
    if (m_write_valid) a_entry : assert (m_write_rows == 16'd4 &&
        m_write_addr == f_base + (64'(head_q & (f_size - 16'd1)) << 7) + 64'd64);
    // The record goes out when all of the command's data is written, HEAD when the record is.
    if (state_q == StReport && f_started_q) a_written : assert ($past(all_idle));
    if (command_o && f_records_q != '0) a_acknowledged : assert ($past(write_idle_i));
    // A bad command runs nothing; whatever loads or runs is a command of the ABI.
    a_phase : assert (f_started_q ? !(f_before || f_loading) : !f_running);
    if (f_loading || f_running) a_good : assert (f_good);
    if (start_o || f_running || (f_ending && ran_q) ||
        state_q inside {StShare, StPasses, StModulus, StModulusWait, StSplit})
      a_shaped : assert (f_shaped);
    if (!f_running && !f_ending && state_q != StIdle && state_q != StNext)
      a_not_run_yet : assert (!ran_q);
    if (state_q == StHeader || state_q == StHeaderWait) a_new : assert (!f_same);
    if (loaded_q && (f_before || (f_loading && f_same))) a_kept : assert (f_shaped);
    // What is registered of the command and of its modulus, rank by rank, is up to date when used.
    if (state_q == StCheck) a_steady : assert (f_steady_q >= settle_q);
    if (f_loading || f_running || f_clearing || f_ending) a_steady_since : assert (f_steady_q >= 3'd4);
    if (state_q inside {StCheck, StShape}) a_shape_steady : assert (f_shape_q >= settle_q);
    if (f_steady_q >= 3'd1) begin
      a_sound : assert (sound_q == f_sound);
      a_kinds : assert (known_q == (command.opcode <= 8'd11) && is_nop_q == (command.opcode == 8'd0) &&
          is_clear_q == (command.opcode == 8'd11) && is_self_q == f_self &&
          is_mul_q == (command.opcode == 8'd3) && is_pow_q == (command.opcode == 8'd4) &&
          is_fixed_q == f_combs && is_prod_q == (command.opcode == 8'd7) &&
          is_sqr_q == (command.opcode == 8'd8) && is_table_q == (command.opcode == 8'd9));
      a_window : assert (window_known_q == (command.window inside {8'd1, 8'd2, 8'd4, 8'd8}) &&
          (!window_known_q || command.window == 8'd1 << window_log2_q));
    end
    if (f_steady_q >= 3'd1 && (state_q == StCheck || f_loading))
      a_same : assert (same_modulus_q == f_same);
    if (f_steady_q >= 3'd2) begin
      a_checks : assert (unaligned_q == !f_aligned && zero_q == !f_counted &&
                         window_ok_q == f_windowed);
      if (f_windowed) a_long : assert (too_long_q ==
          (f_powers && f_exponent > 40'(MaxExponentBits)));
      if (f_windowed && f_powers && !too_long_q)
        a_rows : assert (40'(exp_rows_q) == (f_exponent + 40'd127) >> 7);
    end
    if (f_steady_q >= 3'd3 && f_windowed && f_powers && !too_long_q)
      a_stride : assert (stride_e_ok_q == f_short);
    if (f_steady_q >= 3'd4 && check_q == StatusOk)
      a_verdict : assert (f_good || is_nop_q || is_clear_q);
    if (f_shape_q >= 3'd1) a_k : assert (k_ok_q == f_shaped);
    if (f_shape_q >= 3'd2 && shape_q == StatusOk) a_shape : assert (f_shaped);
    // Requests and data hold until they are taken.
    if ($past(m_read_valid && !m_read_ready)) a_read_holds : assert (m_read_valid &&
        $stable({m_read_addr, m_read_rows, m_read_store, m_read_row}));
    if ($past(m_write_valid && !m_write_ready)) a_write_holds : assert (m_write_valid &&
        $stable({m_write_addr, m_write_rows}));
    if ($past(m_data_valid && !m_data_ready)) a_data_holds : assert (m_data_valid &&
        $stable({m_data, m_data_last}));
  end
