// Command processor: takes descriptors from the queue in memory, checks them, loads their modulus,
// shares them out to the lanes, writes their completion records in order.
//
// A bad command completes with its status code and touches nothing but its completion record. An
// error on the bus, an address outside the window or a parity error in a store aborts the command:
// nothing more is issued, what is under way drains, results are dropped. A descriptor that itself
// cannot be read has no record; HEAD passes it and the error counter counts it.
// A command that names the same modulus block as the one before it, which ended well, runs with what
// the stores hold of it; a start of the card forgets that.
//
// What the card's parts say may arrive some cycles late: a state ends when they have been at rest
// for SettleCycles.
//
// Length: over 400 lines; one state machine walks one command from fetch to completion.
`default_nettype none

module residue_commands
  import residue_engine_pkg::*;
  import residue_abi_pkg::*;
#(
  parameter int unsigned WordBits        = 51,
  parameter bit          Karatsuba       = 1'b0,
  parameter int unsigned Elements        = 21,
  parameter int unsigned Rings           = 1,
  parameter int unsigned MaxWords        = 82,
  parameter int unsigned Contexts        = 128,
  parameter int unsigned TableEntries    = 520,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned EmitResults     = 16,
  parameter int unsigned RowBits         = 16,
  localparam int unsigned RingBits       = (Rings > 1) ? $clog2(Rings) : 1
) (
  input  wire  logic                clk,
  input  wire  logic                rst_n,
  // Registers
  input  wire  logic                start_i,        // ap_start
  output       logic                ready_o,        // pulse: start taken
  output       logic                done_o,         // pulse: queue worked off
  output       logic                idle_o,
  input  wire  logic [63:0]         queue_base_i,
  input  wire  logic [15:0]         queue_size_i,
  input  wire  logic [15:0]         tail_i,
  output       logic [15:0]         head_o,
  output       logic                command_o,      // pulse: a command completed
  output       logic                error_o,        // pulse: with an error
  // The job, the lanes' shares of it, and all lanes' state
  output       job_t                job_o,
  output       logic                share_valid_o,
  output       logic [RingBits-1:0] share_ring_o,
  output       lane_job_t           share_o,
  output       logic                start_o,
  output       logic                abort_o,
  output       logic                flush_o,
  output       logic                clear_o,
  output       logic [WordBits-1:0] n0inv_o,
  input  wire  logic                engine_busy_i,
  input  wire  logic                loader_busy_i,
  input  wire  logic                storer_busy_i,
  input  wire  logic                storer_waiting_i,  // every storer that is busy
  input  wire  logic                mismatch_i,
  input  wire  logic                store_error_i,     // pulse
  input  wire  logic                element_modulus_bad_i,   // pulse
  input  wire  logic                element_modulus_even_i,  // pulse
  input  wire  logic                modulus_even_i, // N just loaded is even
  // Counted while a command runs: how many in this cycle
  input  wire  logic [7:0]          inc_busy_i,
  input  wire  logic [7:0]          inc_products_i,
  input  wire  logic [7:0]          inc_stalls_i,
  input  wire  logic [15:0]         inc_read_bytes_i,
  input  wire  logic [15:0]         inc_write_bytes_i,
  // DMA state; its error flags stay until cleared
  input  wire  logic                read_idle_i,
  input  wire  logic                write_idle_i,
  input  wire  logic                read_window_error_i,
  input  wire  logic                read_axi_error_i,
  input  wire  logic                write_window_error_i,
  input  wire  logic                write_axi_error_i,
  output       logic                error_clear_o,
  // Read requests; answers to store 6 come back here
  output       logic                m_read_valid,
  input  wire  logic                m_read_ready,
  output       logic [63:0]         m_read_addr,
  output       logic [15:0]         m_read_rows,
  output       logic [2:0]          m_read_store,   // 0 accumulators, 1 tables, 3 M, 5 N of all lanes;
                                                    // 6 here
  output       logic [RowBits-1:0]  m_read_row,
  input  wire  logic                s_answer_valid,
  input  wire  logic                s_answer_last,
  input  wire  logic [127:0]        s_answer_data,
  // Completion record writes
  output       logic                m_write_valid,
  input  wire  logic                m_write_ready,
  output       logic [63:0]         m_write_addr,
  output       logic [15:0]         m_write_rows,
  output       logic                m_data_valid,
  input  wire  logic                m_data_ready,
  output       logic [127:0]        m_data,
  output       logic                m_data_last
);

  localparam int unsigned SettleCycles = 7;

  localparam int unsigned KHalf = f_k_half(MaxWords);
  localparam int unsigned TabRows = f_tab_rows(TableEntries, MaxWords);
  localparam int unsigned EmitRows = EmitResults * (MaxWords / 2);
  localparam int unsigned MaxGroup = (1 << 9) - 1;
  // By class of modulus: up to KHalf digits, and above.
  localparam int unsigned EntriesHalf = TabRows / (KHalf / 2);
  localparam int unsigned EntriesFull = TableEntries;
  localparam int unsigned PowHalf = (EntriesHalf - TabFirst) >> PowWindow;
  localparam int unsigned PowFull = (EntriesFull - TabFirst) >> PowWindow;
  localparam int unsigned CapHalf = Contexts;
  localparam int unsigned CapFull = Contexts / 2;
  localparam int unsigned EmitHalf = EmitRows / (KHalf / 2);

  if (Contexts % 8 != 0 || Contexts > MaxGroup) begin : g_contexts_check
    $error("contexts: a multiple of 8, at most 504");
  end
  if (PowFull == 0 || EntriesFull < TabFirst + OperandSlots || EntriesFull < TabFirst + CapFull ||
      EntriesHalf < TabFirst + CapHalf) begin : g_table_check
    $error("table_entries too small for the operands or the contexts");
  end

  typedef enum logic [4:0] {
    StIdle, StNext, StFetch, StFetchWait, StCheck, StHeader, StHeaderWait, StShape, StPasses,
    StModulus, StModulusWait, StSplit, StStart, StRun, StAbort, StClearWait, StClear, StClearRun,
    StRecord, StRecordData, StRecordWait, StComplete
  } state_e;
  state_e state_q;

  logic [15:0]  head_q;
  logic [511:0] command_q;
  logic [1:0]   beat_q;
  status_e      status_q;
  job_t         job_q;
  logic [2:0]   vector_q;
  logic [8:0]   passes_words_q;
  logic [9:0]   quiet_q;
  logic [2:0]   settle_q;
  logic         even_q, store_error_q, element_bad_q, element_even_q;
  logic         ran_q;           // with its modulus loaded
  logic         loaded_q;        // the stores hold the modulus block at loaded_addr_q
  logic [63:0]  loaded_addr_q;
  logic [63:0]  clock_q, started_q;
  logic [63:0]  cycles_q, busy_q, products_q, stalls_q, read_bytes_q, write_bytes_q;
  logic [63:0]  header_k_q;
  logic [WordBits-1:0] header_n0inv_q;

  wire command_t command = command_t'(command_q);
  wire logic [63:0] descriptor =
      queue_base_i + {41'd0, head_q & (queue_size_i - 16'd1), 7'd0};

  // ---- What the opcode uses --------------------------------------------------------------------
  wire logic is_pow   = command.opcode == OpPow;
  wire logic is_fixed = command.opcode == OpPowFixed || command.opcode == OpMultiPow;
  wire logic is_table = command.opcode == OpTable;
  wire logic is_prod  = command.opcode == OpProd;
  wire logic is_mul   = command.opcode == OpMul;
  wire logic is_sqr   = command.opcode == OpSqr;
  wire logic is_self  = command.opcode == OpSelftest;
  wire logic per_element = is_pow && ((command.flags & FlagModulusPerElement) != '0);
  wire logic init_a   = (command.flags & FlagInitFromA) != '0;
  wire logic uses_a   = !is_self && (!is_fixed || init_a);
  wire logic uses_b   = is_mul || is_fixed;
  wire logic uses_e   = is_pow || is_fixed || is_prod;
  wire logic has_exps = is_pow || is_fixed;
  wire logic uses_length = is_pow || is_fixed || is_prod || is_sqr || is_self;
  wire logic unaligned =
      (command.modulus[3:0] != '0) || (uses_a && command.src_a[3:0] != '0) ||
      (uses_b && command.src_b[3:0] != '0) || (uses_e && command.exponents[3:0] != '0) ||
      (!is_self && command.dst[3:0] != '0);

  logic window_ok;
  logic [1:0] window_log2;
  always_comb begin
    window_ok   = 1'b1;
    window_log2 = 2'd0;
    unique case (command.window)
      8'd1:    window_log2 = 2'd0;
      8'd2:    window_log2 = 2'd1;
      8'd4:    window_log2 = 2'd2;
      8'd8:    window_log2 = 2'd3;
      default: window_ok = 1'b0;
    endcase
    if (is_pow && command.window != 8'(PowWindow)) window_ok = 1'b0;
    if (!is_pow && !is_fixed && !is_table) window_ok = 1'b1;
  end

  wire logic [31:0] max_length = is_fixed ? (32'(MaxExponentBits) >> window_log2)
                                          : 32'(MaxExponentBits);
  wire logic too_long = has_exps && (command.length > max_length);
  // Only read when not too long, so 16 bits hold it.
  wire logic [15:0] exponent_bits = is_fixed ? (16'(command.length) << window_log2)
                                             : 16'(command.length);
  wire logic [8:0] exp_rows = 9'((17'(exponent_bits) + 17'd127) >> 7);

  // ---- What the modulus implies ------------------------------------------------------------------
  wire logic [7:0] k = header_k_q[7:0];
  wire logic k_ok = (header_k_q <= 64'(MaxWords)) && !k[0] && (k >= 8'd4);
  wire logic half = (k <= 8'(KHalf));
  wire logic [7:0] rows = k >> 1;
  wire logic [15:0] block_rows = 16'(ModulusHeaderWords / 2) + 16'(ModulusVectors) * 16'(rows);
  wire logic [9:0] entries = half ? 10'(EntriesHalf > 1023 ? 1023 : EntriesHalf)
                                  : 10'(EntriesFull > 1023 ? 1023 : EntriesFull);
  wire logic [9:0] two_table_rows = 10'd2 << (4'd1 << window_log2);
  wire logic table_fits = !is_fixed || (two_table_rows + 10'(TabFirst) <= entries);
  wire logic strides_ok =
      (!uses_a || command.stride_a >= 16'(rows) || (command.stride_a == '0 && !is_prod)) &&
      (!is_mul || command.stride_b >= 16'(rows) || command.stride_b == '0) &&
      (!is_fixed || command.stride_b >= 16'(rows)) &&
      (!per_element || command.stride_b >= block_rows || command.stride_b == '0) &&
      (is_self || command.stride_dst >= 16'(rows));
  wire logic stride_e_ok = !has_exps || command.stride_e >= 16'(exp_rows) || command.stride_e == '0;
  wire logic [8:0] cap_class = half ? 9'(CapHalf) : 9'(CapFull);
  wire logic [8:0] cap_pow = half ? 9'(PowHalf > MaxGroup ? MaxGroup : PowHalf)
                                  : 9'(PowFull > MaxGroup ? MaxGroup : PowFull);
  wire logic [8:0] cap = (is_pow && cap_pow < cap_class) ? cap_pow : cap_class;
  wire logic [7:0] words = Karatsuba ? rows : k;

  wire logic window_error = read_window_error_i || write_window_error_i;
  wire logic any_error = window_error || read_axi_error_i || write_axi_error_i || store_error_q ||
                         element_bad_q || element_even_q;
  wire status_e error_status = window_error ? StatusOutOfWindow
                             : read_axi_error_i ? StatusReadError
                             : write_axi_error_i ? StatusWriteError
                             : store_error_q ? StatusStoreError
                             : element_bad_q ? StatusBadModulus : StatusEvenModulus;
  wire logic same_modulus = loaded_q && (loaded_addr_q == command.modulus);
  assign error_clear_o = (state_q == StNext);
  wire status_e shape_status = any_error ? error_status
                             : !k_ok ? StatusBadModulus
                             : !table_fits ? StatusBadWindow
                             : !strides_ok ? StatusBadStride : StatusOk;

  assign job_o   = job_q;
  assign n0inv_o = header_n0inv_q;
  assign head_o  = head_q;
  assign idle_o  = (state_q == StIdle);
  assign abort_o = (state_q == StAbort);
  assign flush_o = (state_q == StAbort) && (&quiet_q);
  assign clear_o = (state_q == StClear);
  assign start_o = (state_q == StStart);
  assign ready_o = (state_q == StIdle) && start_i;
  assign done_o  = (state_q == StNext) && (head_q == tail_i);
  assign command_o = (state_q == StComplete);
  assign error_o   = (state_q == StComplete) && (status_q != StatusOk);

  wire logic parts_idle = !engine_busy_i && !loader_busy_i && read_idle_i;
  wire logic all_idle   = parts_idle && !storer_busy_i && write_idle_i;

  // ---- Rest ----------------------------------------------------------------------------------------
  logic resting;
  always_comb begin
    unique case (state_q)
      StModulusWait:                               resting = read_idle_i && !split_busy;
      StRun, StAbort, StClearWait, StClearRun:     resting = all_idle;
      StRecordWait:                                resting = write_idle_i;
      default:                                     resting = 1'b0;
    endcase
  end
  wire logic settled = resting && (settle_q == 3'(SettleCycles));
  always_ff @(posedge clk) begin
    if (!resting)      settle_q <= '0;
    else if (!settled) settle_q <= settle_q + 3'd1;
  end

  // ---- Shares of the lanes ---------------------------------------------------------------------------
  logic split_busy;

  residue_split #(.Rings(Rings)) i_split (
    .clk, .rst_n, .start_i(state_q == StShape && shape_status == StatusOk),
    .count_i(is_self ? 32'(cap) : command.count),
    .each_i(is_self),
    .bases_i({command.dst, command.exponents, per_element ? command.modulus : command.src_b,
               command.src_a}),
    .strides_i({command.stride_dst, is_prod ? 16'd0 : command.stride_e, command.stride_b,
                is_prod ? 16'd0 : command.stride_a}),
    .dst_log2_i(is_table ? 4'd1 << window_log2 : 4'd0), .busy_o(split_busy),
    .m_valid(share_valid_o), .m_ring(share_ring_o), .m_share(share_o)
  );

  // ---- Requests ------------------------------------------------------------------------------------
  // Modulus vectors, in the order of vector_q: M, N, R^2, ONE for the tables, ONE for the
  // accumulators, the radix.
  wire logic [2:0] block_vector = (vector_q >= 3'd4) ? vector_q - 3'd1 : vector_q;
  always_comb begin
    m_read_valid = 1'b0;
    m_read_addr  = descriptor + 64'(CommandByte);
    m_read_rows  = 16'd4;
    m_read_store = 3'd6;
    m_read_row   = '0;
    unique case (state_q)
      StFetch: m_read_valid = 1'b1;
      StHeader: begin
        m_read_valid = 1'b1;
        m_read_addr  = command.modulus;
        m_read_rows  = 16'd2;
      end
      StModulus: begin
        m_read_valid = 1'b1;
        m_read_addr  = command.modulus + 64'(8 * ModulusHeaderWords) +
                       ((64'(block_vector) * 64'(job_q.k)) << 3);
        m_read_rows  = 16'(job_q.rows);
        unique case (vector_q)
          3'd0:    m_read_store = 3'd3;
          3'd1:    m_read_store = 3'd5;
          3'd4:    m_read_store = 3'd0;
          default: m_read_store = 3'd1;
        endcase
        unique case (vector_q)
          3'd3:    m_read_row = RowBits'(TabOne) * RowBits'(job_q.rows);
          3'd5:    m_read_row = RowBits'(TabExit) * RowBits'(job_q.rows);
          default: m_read_row = '0;
        endcase
      end
      default: ;
    endcase
  end

  completion_t record;
  always_comb begin
    record.status      = 32'(status_q);
    record.tag         = command.tag;
    record.cycles      = cycles_q;
    record.busy        = busy_q;
    record.products    = products_q;
    record.started     = started_q;
    record.stalls      = stalls_q;
    record.read_bytes  = read_bytes_q;
    record.write_bytes = write_bytes_q;
  end
  assign m_write_valid = (state_q == StRecord);
  assign m_write_addr  = descriptor + 64'(CompletionByte);
  assign m_write_rows  = 16'd4;
  assign m_data_valid  = (state_q == StRecordData);
  assign m_data        = record[128 * beat_q +: 128];
  assign m_data_last   = (beat_q == 2'd3);

  // ---- State machine -------------------------------------------------------------------------------
  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q <= StIdle;
      head_q  <= '0;
    end else begin
      unique case (state_q)
        StIdle: if (start_i) state_q <= StNext;
        StNext: state_q <= (head_q == tail_i) ? StIdle : StFetch;

        StFetch: begin
          status_q <= StatusOk;
          if (m_read_ready) state_q <= StFetchWait;
        end
        StFetchWait:
          if (s_answer_valid && s_answer_last) state_q <= StCheck;
        StCheck: begin
          state_q <= StRecord;
          if (any_error)                             state_q  <= StComplete;  // no record
          else if (command.opcode > 8'(OpClear))     status_q <= StatusUnknownOpcode;
          else if (command.opcode == 8'(OpNop))      status_q <= StatusOk;
          else if (command.opcode == 8'(OpClear))    state_q  <= StClearWait;
          else if (unaligned)                        status_q <= StatusUnaligned;
          else if ((!is_self && command.count == '0) || (uses_length && command.length == '0))
            status_q <= StatusZeroCount;
          else if (!window_ok)                       status_q <= StatusBadWindow;
          else if (too_long || !stride_e_ok)         status_q <= StatusExponentTooLong;
          else                                       state_q  <= same_modulus ? StShape : StHeader;
          if (any_error) status_q <= error_status;
        end

        StHeader: if (m_read_ready) state_q <= StHeaderWait;
        StHeaderWait:
          if (s_answer_valid && s_answer_last) state_q <= StShape;
        StShape: begin
          status_q <= shape_status;
          state_q  <= (shape_status == StatusOk) ? StPasses : StRecord;
        end
        StPasses:
          if (passes_words_q >= 9'(job_q.words)) state_q <= same_modulus ? StSplit : StModulus;
        StModulus: if (m_read_ready && vector_q == 3'd5) state_q <= StModulusWait;
        StModulusWait:
          if (settled) begin
            state_q <= StSplit;
            if (any_error) begin
              status_q <= error_status;
              state_q  <= StRecord;
            end else if (even_q) begin
              status_q <= StatusEvenModulus;
              state_q  <= StRecord;
            end
          end

        StSplit: if (!split_busy) state_q <= StStart;
        StStart: state_q <= StRun;
        StRun: begin
          if (any_error) state_q <= StAbort;
          else if (settled) begin
            state_q <= StRecord;
            if (mismatch_i) status_q <= StatusSelftestFailed;
          end
        end
        StAbort:
          if (settled) begin
            state_q  <= StRecord;
            status_q <= error_status;
          end

        StClearWait: if (settled) state_q <= StClear;
        StClear:     state_q <= StClearRun;
        StClearRun:  if (settled) state_q <= StRecord;

        StRecord:     if (m_write_ready) state_q <= StRecordData;
        StRecordData: if (m_data_ready && m_data_last) state_q <= StRecordWait;
        StRecordWait: if (settled) state_q <= StComplete;
        StComplete: begin
          head_q  <= head_q + 16'd1;
          state_q <= StNext;
        end
        default: state_q <= StIdle;
      endcase
    end
  end

  always_ff @(posedge clk) begin
    if (state_q == StNext) begin
      cycles_q       <= '0;
      busy_q         <= '0;
      products_q     <= '0;
      stalls_q       <= '0;
      read_bytes_q   <= '0;
      write_bytes_q  <= '0;
      started_q      <= clock_q;
    end else if (state_q < StRecord) begin
      cycles_q      <= cycles_q + 64'd1;
      busy_q        <= busy_q + 64'(inc_busy_i);
      products_q    <= products_q + 64'(inc_products_i);
      stalls_q      <= stalls_q + 64'(inc_stalls_i);
      read_bytes_q  <= read_bytes_q + 64'(inc_read_bytes_i);
      write_bytes_q <= write_bytes_q + 64'(inc_write_bytes_i);
    end
    clock_q <= !rst_n ? '0 : clock_q + 64'd1;

    if (state_q == StNext) begin
      store_error_q  <= 1'b0;
      element_bad_q  <= 1'b0;
      element_even_q <= 1'b0;
    end else begin
      if (store_error_i)          store_error_q  <= 1'b1;
      if (element_modulus_bad_i)  element_bad_q  <= 1'b1;
      if (element_modulus_even_i) element_even_q <= 1'b1;
    end

    // What the stores hold of a modulus
    if (state_q == StNext)       ran_q <= 1'b0;
    else if (state_q == StStart) ran_q <= 1'b1;
    if (state_q == StIdle)       loaded_q <= 1'b0;
    else if (state_q == StComplete) begin
      loaded_q      <= ran_q && (status_q == StatusOk);
      loaded_addr_q <= command.modulus;
    end

    if (state_q == StFetchWait && s_answer_valid) command_q <= {s_answer_data, command_q[511:128]};
    if (state_q == StHeaderWait && s_answer_valid && !s_answer_last) begin
      header_k_q     <= s_answer_data[63:0];
      header_n0inv_q <= s_answer_data[64 +: WordBits];
    end

    if (state_q == StRecord) beat_q <= '0;
    else if (m_data_valid && m_data_ready) beat_q <= beat_q + 2'd1;

    if (state_q == StPasses) vector_q <= '0;
    else if (state_q == StModulus && m_read_ready) vector_q <= vector_q + 3'd1;

    if (state_q == StPasses)  even_q <= 1'b0;
    else if (modulus_even_i)  even_q <= 1'b1;

    if (state_q != StAbort || !(parts_idle && storer_waiting_i)) quiet_q <= '0;
    else if (!(&quiet_q))                                        quiet_q <= quiet_q + 10'd1;

    if (state_q == StShape && shape_status == StatusOk) begin
      job_q.opcode      <= command.opcode;
      job_q.window_log2 <= window_log2;
      job_q.init_from_a <= is_fixed && init_a;
      job_q.count       <= is_self ? 32'(cap) : command.count;
      job_q.length      <= is_pow ? (command.length + 32'(PowWindow - 1)) >> $clog2(PowWindow)
                                  : command.length;
      job_q.table_addr  <= command.src_b;
      job_q.stride_a    <= command.stride_a;
      job_q.stride_b    <= command.stride_b;
      job_q.stride_e    <= command.stride_e;
      job_q.stride_dst  <= command.stride_dst;
      job_q.k           <= k;
      job_q.words       <= words;
      job_q.rows        <= rows;
      job_q.per_element <= per_element;
      // The ring needs one slot more than words, and the b lane one more than elements.
      job_q.slots       <= (words > 8'(Elements)) ? words + 8'd1 : 8'(Elements + 1);
      job_q.passes      <= 8'd1;
      job_q.exp_rows    <= exp_rows[7:0];
      job_q.cap         <= cap;
      job_q.emit_cap    <= half ? 6'(EmitHalf) : 6'(EmitResults);
      passes_words_q    <= 9'(Elements);
    end else if (state_q == StPasses && passes_words_q < 9'(job_q.words)) begin
      passes_words_q <= passes_words_q + 9'(Elements);
      job_q.passes   <= job_q.passes + 8'd1;
    end
  end

endmodule

`default_nettype wire
