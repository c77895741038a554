// Command processor: takes descriptors from the queue in memory, checks them, loads their modulus,
// shares them out to the lanes, writes their completion records in order.
//
// A bad command completes with its status code and touches nothing but its completion record; of one
// whose bytes do not fold to CommandCheck nothing else is looked at. An error on the bus, an address
// outside the window or a parity error in a store aborts the command: nothing more is issued, what
// is under way drains, results are dropped. A descriptor that itself cannot be read has no record;
// HEAD passes it and the error counter counts it.
// A command that names the same modulus block as the one before it, which ended well, runs with what
// the stores hold of it; a start of the card forgets that.
//
// What the card's parts say may arrive some cycles late: a state ends when they have been at rest
// for SettleCycles. What follows from a command and its modulus is found out rank by rank of
// registers in that time.
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
    StIdle, StNext, StFetch, StFetchWait, StCheck, StHeader, StHeaderWait, StShape, StShare,
    StPasses, StModulus, StModulusWait, StSplit, StStart, StRun, StAbort, StClearWait, StClear,
    StClearRun, StReport, StRecord, StRecordData, StRecordWait, StComplete
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
  logic         error_q;         // and which one
  status_e      error_status_q;
  logic         ran_q;           // with its modulus loaded
  logic         loaded_q;        // the stores hold the modulus block at loaded_addr_q
  logic [63:0]  loaded_addr_q;
  logic [63:0]  clock_q, started_q;
  logic [63:0]  cycles_q, busy_q, products_q, stalls_q, read_bytes_q, write_bytes_q;
  logic [63:0]  header_k_q;
  logic [WordBits-1:0] header_n0inv_q;

  wire command_t command = command_t'(command_q);

  // ---- What the opcode uses --------------------------------------------------------------------
  // First rank: the command alone
  logic       sound_q;         // its bytes fold to its check
  logic       known_q, is_nop_q, is_clear_q, is_self_q;
  logic       is_mul_q, is_pow_q, is_fixed_q, is_prod_q, is_sqr_q, is_table_q;
  logic       window_known_q;  // 1, 2, 4 or 8
  logic [1:0] window_log2_q;
  logic       same_modulus_q;  // as the stores hold

  wire logic per_element = is_pow_q && ((command.flags & FlagModulusPerElement) != '0);
  wire logic init_a   = (command.flags & FlagInitFromA) != '0;
  wire logic uses_a   = !is_self_q && (!is_fixed_q || init_a);
  wire logic uses_b   = is_mul_q || is_fixed_q;
  wire logic uses_e   = is_pow_q || is_fixed_q || is_prod_q;
  wire logic has_exps = is_pow_q || is_fixed_q;
  wire logic uses_length = is_pow_q || is_fixed_q || is_prod_q || is_sqr_q || is_self_q;

  // Second rank
  logic       unaligned_q, zero_q, window_ok_q, too_long_q;
  logic [8:0] exp_rows_q;
  // Third and fourth rank
  logic       stride_e_ok_q;
  status_e    check_q;

  wire logic [31:0] max_length = is_fixed_q ? (32'(MaxExponentBits) >> window_log2_q)
                                          : 32'(MaxExponentBits);
  // Only read when not too long, so 16 bits hold it.
  wire logic [15:0] exponent_bits = is_fixed_q ? (16'(command.length) << window_log2_q)
                                             : 16'(command.length);

  function automatic logic [7:0] f_fold(input logic [511:0] bytes);
    f_fold = '0;
    for (int unsigned i = 0; i < 512; i += 8) f_fold = f_fold ^ bytes[i+:8];
  endfunction

  always_ff @(posedge clk) begin
    sound_q    <= f_fold(command) == CommandCheck;
    known_q    <= command.opcode <= OpClear;
    is_nop_q   <= command.opcode == OpNop;
    is_clear_q <= command.opcode == OpClear;
    is_self_q  <= command.opcode == OpSelftest;
    is_mul_q   <= command.opcode == OpMul;
    is_pow_q   <= command.opcode == OpPow;
    is_fixed_q <= command.opcode == OpPowFixed || command.opcode == OpMultiPow;
    is_prod_q  <= command.opcode == OpProd;
    is_sqr_q   <= command.opcode == OpSqr;
    is_table_q <= command.opcode == OpTable;
    window_known_q <= 1'b1;
    unique case (command.window)
      8'd1:    window_log2_q <= 2'd0;
      8'd2:    window_log2_q <= 2'd1;
      8'd4:    window_log2_q <= 2'd2;
      8'd8:    window_log2_q <= 2'd3;
      default: window_known_q <= 1'b0;
    endcase
    same_modulus_q <= loaded_q && (loaded_addr_q == command.modulus);

    unaligned_q <=
        (command.modulus[3:0] != '0) || (uses_a && command.src_a[3:0] != '0) ||
        (uses_b && command.src_b[3:0] != '0) || (uses_e && command.exponents[3:0] != '0) ||
        (!is_self_q && command.dst[3:0] != '0);
    zero_q      <= (!is_self_q && command.count == '0) || (uses_length && command.length == '0);
    window_ok_q <= is_pow_q ? window_known_q && window_log2_q == 2'($clog2(PowWindow))
                          : window_known_q || !(is_fixed_q || is_table_q);
    too_long_q  <= has_exps && (command.length > max_length);
    exp_rows_q  <= 9'((17'(exponent_bits) + 17'd127) >> 7);

    stride_e_ok_q <= !has_exps || command.stride_e >= 16'(exp_rows_q) || command.stride_e == '0;

    if (!sound_q)                          check_q <= StatusBadCheck;
    else if (!known_q)                     check_q <= StatusUnknownOpcode;
    else if (is_nop_q || is_clear_q)       check_q <= StatusOk;
    else if (unaligned_q)                  check_q <= StatusUnaligned;
    else if (zero_q)                       check_q <= StatusZeroCount;
    else if (!window_ok_q)                 check_q <= StatusBadWindow;
    else if (too_long_q || !stride_e_ok_q) check_q <= StatusExponentTooLong;
    else                                   check_q <= StatusOk;
  end

  // ---- What the modulus implies ------------------------------------------------------------------
  // First rank
  logic        k_ok_q, half_q;
  logic [15:0] block_rows_q;
  // Second and third rank
  logic        table_fits_q, strides_ok_q;
  status_e     shape_q;

  wire logic [7:0] k = header_k_q[7:0];
  wire logic [7:0] rows = k >> 1;
  wire logic [9:0] entries = half_q ? 10'(EntriesHalf > 1023 ? 1023 : EntriesHalf)
                                    : 10'(EntriesFull > 1023 ? 1023 : EntriesFull);
  wire logic [9:0] two_table_rows = 10'd2 << (4'd1 << window_log2_q);

  always_ff @(posedge clk) begin
    k_ok_q       <= (header_k_q <= 64'(MaxWords)) && !k[0] && (k >= 8'd4);
    half_q       <= (k <= 8'(KHalf));
    block_rows_q <= 16'(ModulusHeaderWords / 2) + 16'(ModulusVectors) * 16'(rows);

    table_fits_q <= !is_fixed_q || (two_table_rows + 10'(TabFirst) <= entries);
    strides_ok_q <=
        (!uses_a || command.stride_a >= 16'(rows) || (command.stride_a == '0 && !is_prod_q)) &&
        (!is_mul_q || command.stride_b >= 16'(rows) || command.stride_b == '0) &&
        (!is_fixed_q || command.stride_b >= 16'(rows)) &&
        (!per_element || command.stride_b >= block_rows_q || command.stride_b == '0) &&
        (is_self_q || command.stride_dst >= 16'(rows));

    if (!k_ok_q)            shape_q <= StatusBadModulus;
    else if (!table_fits_q) shape_q <= StatusBadWindow;
    else if (!strides_ok_q) shape_q <= StatusBadStride;
    else                    shape_q <= StatusOk;
  end

  wire logic [8:0] cap_class = half_q ? 9'(CapHalf) : 9'(CapFull);
  wire logic [8:0] cap_pow = half_q ? 9'(PowHalf > MaxGroup ? MaxGroup : PowHalf)
                                    : 9'(PowFull > MaxGroup ? MaxGroup : PowFull);
  wire logic [8:0] cap = (is_pow_q && cap_pow < cap_class) ? cap_pow : cap_class;
  wire logic [7:0] words = Karatsuba ? rows : k;

  wire logic window_error = read_window_error_i || write_window_error_i;
  always_ff @(posedge clk) begin
    error_q <= window_error || read_axi_error_i || write_axi_error_i || store_error_q ||
               element_bad_q || element_even_q;
    error_status_q <= window_error ? StatusOutOfWindow
                    : read_axi_error_i ? StatusReadError
                    : write_axi_error_i ? StatusWriteError
                    : store_error_q ? StatusStoreError
                    : element_bad_q ? StatusBadModulus : StatusEvenModulus;
  end
  assign error_clear_o = (state_q == StNext);

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
      StCheck, StShape:                            resting = 1'b1;
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
    .clk, .rst_n, .start_i(state_q == StShare), .count_i(job_q.count), .each_i(is_self_q),
    .bases_i({command.dst, command.exponents, per_element ? command.modulus : command.src_b,
               command.src_a}),
    .strides_i({command.stride_dst, is_prod_q ? 16'd0 : command.stride_e, command.stride_b,
                is_prod_q ? 16'd0 : command.stride_a}),
    .dst_log2_i(is_table_q ? 4'd1 << window_log2_q : 4'd0), .busy_o(split_busy),
    .m_valid(share_valid_o), .m_ring(share_ring_o), .m_share(share_o)
  );

  // ---- Requests ------------------------------------------------------------------------------------
  // Where the next one goes, found before the state that makes it.
  logic [63:0] addr_q, addr_base;
  logic [22:0] addr_step;
  logic        addr_moves;
  logic [15:0] index_mask_q;
  wire logic [15:0] index = head_q & index_mask_q;
  always_comb begin
    addr_base  = command.modulus;
    addr_step  = '0;
    addr_moves = 1'b1;
    unique case (state_q)
      StNext, StReport: begin
        addr_base = queue_base_i;
        addr_step = {index, 7'(state_q == StNext ? CommandByte : CompletionByte)};
      end
      StCheck: ;
      StShare: addr_step = 23'(8 * ModulusHeaderWords);
      StModulus: begin
        addr_base  = addr_q;
        addr_step  = {11'd0, job_q.rows, 4'd0};
        addr_moves = m_read_ready && vector_q != 3'd3;
      end
      default: addr_moves = 1'b0;
    endcase
  end
  always_ff @(posedge clk) begin
    if (addr_moves) addr_q <= addr_base + 64'(addr_step);
    index_mask_q <= queue_size_i - 16'd1;
  end

  // Modulus vectors, in the order of vector_q: M, N, R^2, ONE for the tables, ONE for the
  // accumulators, the radix.
  always_comb begin
    m_read_valid = 1'b0;
    m_read_rows  = 16'd4;
    m_read_store = 3'd6;
    m_read_row   = '0;
    unique case (state_q)
      StFetch: m_read_valid = 1'b1;
      StHeader: begin
        m_read_valid = 1'b1;
        m_read_rows  = 16'd2;
      end
      StModulus: begin
        m_read_valid = 1'b1;
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
  assign m_read_addr   = addr_q;
  assign m_write_valid = (state_q == StRecord);
  assign m_write_addr  = addr_q;
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
        StCheck: if (settled) begin
          status_q <= error_q ? error_status_q : check_q;
          if (error_q)                              state_q <= StComplete;  // no record
          else if (check_q != StatusOk || is_nop_q) state_q <= StReport;
          else if (is_clear_q)                      state_q <= StClearWait;
          else                                      state_q <= same_modulus_q ? StShape : StHeader;
        end

        StHeader: if (m_read_ready) state_q <= StHeaderWait;
        StHeaderWait:
          if (s_answer_valid && s_answer_last) state_q <= StShape;
        StShape: if (settled) begin
          status_q <= error_q ? error_status_q : shape_q;
          state_q  <= (error_q || shape_q != StatusOk) ? StReport : StShare;
        end
        StShare: state_q <= StPasses;
        StPasses:
          if (passes_words_q >= 9'(job_q.words)) state_q <= same_modulus_q ? StSplit : StModulus;
        StModulus: if (m_read_ready && vector_q == 3'd5) state_q <= StModulusWait;
        StModulusWait:
          if (settled) begin
            state_q <= StSplit;
            if (error_q) begin
              status_q <= error_status_q;
              state_q  <= StReport;
            end else if (even_q) begin
              status_q <= StatusEvenModulus;
              state_q  <= StReport;
            end
          end

        StSplit: if (!split_busy) state_q <= StStart;
        StStart: state_q <= StRun;
        StRun: begin
          if (error_q) state_q <= StAbort;
          else if (settled) begin
            state_q <= StReport;
            if (mismatch_i) status_q <= StatusSelftestFailed;
          end
        end
        StAbort:
          if (settled) begin
            state_q  <= StReport;
            status_q <= error_status_q;
          end

        StClearWait: if (settled) state_q <= StClear;
        StClear:     state_q <= StClearRun;
        StClearRun:  if (settled) state_q <= StReport;

        StReport:     state_q <= StRecord;
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

    if (state_q == StShape) begin
      job_q.opcode      <= command.opcode;
      job_q.window_log2 <= window_log2_q;
      job_q.init_from_a <= is_fixed_q && init_a;
      job_q.count       <= is_self_q ? 32'(cap) : command.count;
      job_q.length      <= is_pow_q ? (command.length + 32'(PowWindow - 1)) >> $clog2(PowWindow)
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
      job_q.exp_rows    <= exp_rows_q[7:0];
      job_q.cap         <= cap;
      job_q.emit_cap    <= half_q ? 6'(EmitHalf) : 6'(EmitResults);
      passes_words_q    <= 9'(Elements);
    end else if (state_q == StPasses && passes_words_q < 9'(job_q.words)) begin
      passes_words_q <= passes_words_q + 9'(Elements);
      job_q.passes   <= job_q.passes + 8'd1;
    end
  end

endmodule

`default_nettype wire
