// Exponentiation engine: a ring, its operand stores and the sequencer that keeps the ring full.
//
// Stores (two digits a row, one read and one write port each, a parity bit a row): accumulators
// (twice for a Karatsuba ring, which reads a and b together), tables and operands, exponents,
// moduli. The loader writes them through s_load; results leave in issue order through m_result,
// `rows` rows each. store_error_o pulses when a row that a product or a result used was read with a
// flipped bit: what the command computed is not to be used.
// clear_i, while nothing runs: every row of every store, and every register that held one, becomes
// zero; busy_o tells the end.
// Cost and rate: those of residue_ring; the stores take the board's block or ultra RAM.
`default_nettype none

module residue_engine
  import residue_engine_pkg::*;
#(
  parameter int unsigned WordBits     = 51,
  parameter bit          Karatsuba    = 1'b0,
  parameter int unsigned Elements     = 21,
  parameter int unsigned MaxWords     = 82,
  parameter int unsigned Contexts     = 128,
  parameter int unsigned TableEntries = 520,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned EmitResults  = 16,
  localparam int unsigned RowBits     = f_row_bits(f_acc_rows(Contexts, MaxWords),
                                                   f_tab_rows(TableEntries, MaxWords),
                                                   f_exp_rows(Contexts, MaxExponentBits))
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic                  start_i,
  input  wire  logic                  abort_i,
  input  wire  logic                  clear_i,
  input  wire  job_t                  job_i,
  output       logic                  busy_o,
  // Arrivals, told by the loader
  input  wire  logic                  init_arrived_i,
  input  wire  logic                  exponent_arrived_i,
  input  wire  logic                  row_arrived_i,
  input  wire  logic                  operand_arrived_i,
  // Retirements, told to the loader
  output       logic                  retire_o,
  output       logic                  retire_round_o,
  output       logic                  retire_group_o,
  // Rows into the stores
  input  wire  logic                  s_load_valid,
  output       logic                  s_load_ready,
  input  wire  logic [1:0]            s_load_store,   // 0 accumulators, 1 tables, 2 exponents, 3 M
  input  wire  logic [RowBits-1:0]    s_load_row,
  input  wire  logic [127:0]          s_load_data,    // words in bits 63:0 and 127:64
  // Results
  output       logic                  m_result_valid,
  input  wire  logic                  m_result_ready,
  output       logic [2*WordBits-1:0] m_result_data,
  input  wire  logic                  result_taken_i, // a whole result has left
  // Counters
  output       logic                  slot_busy_o,
  output       logic                  product_o,
  output       logic                  stall_o,
  output       logic                  store_error_o
);

  localparam int unsigned PairBits    = 2 * WordBits;
  localparam int unsigned AccRows     = f_acc_rows(Contexts, MaxWords);
  localparam int unsigned TabRows     = f_tab_rows(TableEntries, MaxWords);
  localparam int unsigned ExpRows     = f_exp_rows(Contexts, MaxExponentBits);
  localparam int unsigned ModRows     = f_mod_rows(AccRows, TabRows, MaxWords);
  localparam int unsigned EmitRows    = EmitResults * (MaxWords / 2);
  localparam int unsigned AccRowBits  = $clog2(AccRows);
  localparam int unsigned TabRowBits  = $clog2(TabRows);
  localparam int unsigned ExpRowBits  = $clog2(ExpRows);
  localparam int unsigned ModRowBits  = $clog2(ModRows);
  localparam int unsigned RingBits    = Karatsuba ? PairBits : WordBits;
  localparam int unsigned RingWords   = Karatsuba ? MaxWords / 2 : MaxWords;
  localparam int unsigned FetchLatency = Karatsuba ? 5 : 6;

  if (WordBits > 64) begin : g_word_check
    $error("a digit must fit a 64-bit word");
  end
  if (TabRowBits < AccRowBits) begin : g_row_check
    $error("TableEntries: the table store must be at least as deep as the accumulator store");
  end

  typedef struct packed {
    logic [AccRowBits-1:0] a_row;
    logic                  b_is_acc;
    logic [TabRowBits-1:0] b_row;
    logic [ModRowBits-1:0] m_row;
    logic [AccRowBits-1:0] dst_row;
    logic                  to_acc;
    logic                  to_table;
    logic [TabRowBits-1:0] tab_row;
    logic                  emit;
    logic                  last_of_round;
    logic                  last_of_group;
  } tag_t;

  // ---- Sequencer and ring ------------------------------------------------------------------------
  tag_t req_tag, fetch_tag, res_tag;
  logic req_valid, req_ready, fetch_valid;
  logic [7:0] fetch_pass;
  logic [RingBits-1:0] word_a, word_m, word_b;
  logic res_valid, res_first, res_last;
  logic [RingBits-1:0] res_data;
  logic exp_ren;
  logic [ExpRowBits-1:0] exp_rrow;
  logic [127:0] exp_rdata;
  logic sequencer_busy, ring_idle;

  residue_sequencer #(
    .AccRowBits(AccRowBits), .TabRowBits(TabRowBits), .ExpRowBits(ExpRowBits),
    .ModRowBits(ModRowBits)
  ) i_sequencer (
    .clk, .rst_n, .start_i, .abort_i, .job_i,
    .busy_o(sequencer_busy), .stall_o,
    .init_arrived_i, .exponent_arrived_i, .row_arrived_i, .operand_arrived_i,
    .retire_i(retire_o), .retire_group_i(retire_group_o), .emit_taken_i(result_taken_i),
    .exp_ren_o(exp_ren), .exp_rrow_o(exp_rrow), .exp_rdata_i(exp_rdata),
    .m_req_valid(req_valid), .m_req_ready(req_ready),
    .m_req_a_row(req_tag.a_row), .m_req_b_is_acc(req_tag.b_is_acc), .m_req_b_row(req_tag.b_row),
    .m_req_m_row(req_tag.m_row), .m_req_dst_row(req_tag.dst_row),
    .m_req_to_acc(req_tag.to_acc), .m_req_to_table(req_tag.to_table),
    .m_req_tab_row(req_tag.tab_row), .m_req_emit(req_tag.emit),
    .m_req_last_of_round(req_tag.last_of_round), .m_req_last_of_group(req_tag.last_of_group)
  );

  residue_ring #(
    .WordBits(WordBits), .Karatsuba(Karatsuba), .Elements(Elements), .MaxWords(RingWords),
    .TagBits($bits(tag_t)), .FetchLatency(FetchLatency)
  ) i_ring (
    .clk, .rst_n, .clear_i(clearing),
    .words_i(job_i.words), .slots_i(job_i.slots), .passes_i(job_i.passes),
    .s_req_valid(req_valid), .s_req_ready(req_ready), .s_req_tag(req_tag),
    .m_fetch_valid(fetch_valid), .m_fetch_tag(fetch_tag), .m_fetch_pass(fetch_pass),
    .s_a_i(word_a), .s_m_i(word_m), .s_b_i(word_b),
    .m_res_valid(res_valid), .m_res_data(res_data), .m_res_first(res_first),
    .m_res_last(res_last), .m_res_tag(res_tag),
    .busy_o(slot_busy_o), .idle_o(ring_idle)
  );

  assign product_o = req_valid && req_ready;

  // ---- Operands out of the stores, results back in -------------------------------------------------
  logic acc_ren, tab_ren, mod_ren;
  logic [AccRowBits-1:0] acc_rrow;
  logic [TabRowBits-1:0] tab_rrow;
  logic [ModRowBits-1:0] mod_rrow;
  logic [PairBits-1:0] acc_rdata, tab_rdata, mod_rdata;
  logic acc_wen;
  logic [AccRowBits-1:0] acc_wrow;
  logic [PairBits-1:0] acc_wdata;
  logic acc_error, acc_b_error, tab_error, exp_error, mod_error, emit_error;
  logic clearing;

  // The largest store is in UltraRAM where the part has it, all of them where it has plenty.
`ifdef RESIDUE_ULTRA_RAM
  localparam TableStyle = "ultra";
`else
  localparam TableStyle = "auto";
`endif
`ifdef RESIDUE_ULTRA_STORES
  localparam StoreStyle = "ultra";
`else
  localparam StoreStyle = "auto";
`endif

  if (Karatsuba) begin : g_rows
    logic acc_b_ren;
    logic [AccRowBits-1:0] acc_b_rrow;
    logic [PairBits-1:0] acc_b_rdata;

    residue_operands_rows #(
      .WordBits(WordBits), .Elements(Elements), .AccRowBits(AccRowBits), .TabRowBits(TabRowBits),
      .ModRowBits(ModRowBits)
    ) i_operands (
      .clk, .rst_n, .rows_i(job_i.rows),
      .fetch_valid_i(fetch_valid), .fetch_pass_i(fetch_pass),
      .fetch_a_row_i(fetch_tag.a_row), .fetch_b_is_acc_i(fetch_tag.b_is_acc),
      .fetch_b_row_i(fetch_tag.b_row), .fetch_m_row_i(fetch_tag.m_row),
      .acc_ren_o(acc_ren), .acc_rrow_o(acc_rrow), .acc_rdata_i(acc_rdata),
      .acc_b_ren_o(acc_b_ren), .acc_b_rrow_o(acc_b_rrow), .acc_b_rdata_i(acc_b_rdata),
      .tab_ren_o(tab_ren), .tab_rrow_o(tab_rrow), .tab_rdata_i(tab_rdata),
      .mod_ren_o(mod_ren), .mod_rrow_o(mod_rrow), .mod_rdata_i(mod_rdata),
      .m_a_o(word_a), .m_m_o(word_m), .m_b_o(word_b)
    );

    residue_ram #(
      .WidthBits(PairBits), .DepthRows(AccRows), .RamStyle(StoreStyle)
    ) i_accumulators_b (
      .clk, .rst_n, .clear_i(clearing),
      .wen_i(acc_wen), .wrow_i(acc_wrow), .wdata_i(acc_wdata),
      .ren_i(acc_b_ren), .rrow_i(acc_b_rrow), .out_en_i(1'b1), .rdata_o(acc_b_rdata),
      .error_o(acc_b_error)
    );
  end else begin : g_words
    residue_operands #(
      .WordBits(WordBits), .Elements(Elements), .AccRowBits(AccRowBits), .TabRowBits(TabRowBits),
      .ModRowBits(ModRowBits)
    ) i_operands (
      .clk, .rst_n, .k_i(job_i.k),
      .fetch_valid_i(fetch_valid), .fetch_pass_i(fetch_pass),
      .fetch_a_row_i(fetch_tag.a_row), .fetch_b_is_acc_i(fetch_tag.b_is_acc),
      .fetch_b_row_i(fetch_tag.b_row), .fetch_m_row_i(fetch_tag.m_row),
      .acc_ren_o(acc_ren), .acc_rrow_o(acc_rrow), .acc_rdata_i(acc_rdata),
      .tab_ren_o(tab_ren), .tab_rrow_o(tab_rrow), .tab_rdata_i(tab_rdata),
      .mod_ren_o(mod_ren), .mod_rrow_o(mod_rrow), .mod_rdata_i(mod_rdata),
      .m_a_o(word_a), .m_m_o(word_m), .m_b_o(word_b)
    );
    assign acc_b_error = 1'b0;
  end

  logic wb_acc_wen, wb_tab_wen, wb_emit_wen;
  logic [AccRowBits-1:0] wb_acc_wrow;
  logic [TabRowBits-1:0] wb_tab_wrow;
  logic [PairBits-1:0] wb_data;

  residue_writeback #(
    .WordBits(WordBits), .Karatsuba(Karatsuba), .AccRowBits(AccRowBits), .TabRowBits(TabRowBits)
  ) i_writeback (
    .clk, .rst_n, .clear_i(clearing),
    .res_valid_i(res_valid), .res_first_i(res_first), .res_last_i(res_last),
    .res_data_i(res_data), .res_acc_row_i(res_tag.dst_row), .res_to_acc_i(res_tag.to_acc),
    .res_to_table_i(res_tag.to_table), .res_tab_row_i(res_tag.tab_row), .res_emit_i(res_tag.emit),
    .res_last_of_round_i(res_tag.last_of_round), .res_last_of_group_i(res_tag.last_of_group),
    .acc_wen_o(wb_acc_wen), .acc_wrow_o(wb_acc_wrow),
    .tab_wen_o(wb_tab_wen), .tab_wrow_o(wb_tab_wrow),
    .emit_wen_o(wb_emit_wen), .wdata_o(wb_data),
    .retire_o, .retire_round_o, .retire_group_o
  );

  // ---- Clearing: one row of every store a cycle, then zeroes through their registers ---------------
  localparam int unsigned ClearCycles = f_max_rows(f_max_rows(AccRows, TabRows),
                                                   f_max_rows(ExpRows, EmitRows)) + 4;
  localparam int unsigned ClearBits = $clog2(ClearCycles + 1);
  logic [ClearBits-1:0] clear_left_q;
  assign clearing = (clear_left_q != '0);

  always_ff @(posedge clk) begin
    if (!rst_n)          clear_left_q <= '0;
    else if (clear_i)    clear_left_q <= ClearBits'(ClearCycles);
    else if (clearing) clear_left_q <= clear_left_q - ClearBits'(1);
  end

  // ---- Stores: results go before loads -------------------------------------------------------------
  wire logic [PairBits-1:0] load_pair = {s_load_data[64 +: WordBits], s_load_data[0 +: WordBits]};
  wire logic load_acc = s_load_valid && s_load_ready && (s_load_store == 2'd0);
  wire logic load_tab = s_load_valid && s_load_ready && (s_load_store == 2'd1);
  wire logic load_exp = s_load_valid && (s_load_store == 2'd2);
  wire logic load_mod = s_load_valid && (s_load_store == 2'd3);
  assign s_load_ready = !(s_load_store == 2'd0 && wb_acc_wen) &&
                        !(s_load_store == 2'd1 && wb_tab_wen);

  assign acc_wen   = wb_acc_wen || load_acc;
  assign acc_wrow  = wb_acc_wen ? wb_acc_wrow : AccRowBits'(s_load_row);
  assign acc_wdata = wb_acc_wen ? wb_data : load_pair;

  residue_ram #(
    .WidthBits(PairBits), .DepthRows(AccRows), .RamStyle(StoreStyle)
  ) i_accumulators (
    .clk, .rst_n, .clear_i(clearing),
    .wen_i(acc_wen), .wrow_i(acc_wrow), .wdata_i(acc_wdata),
    .ren_i(acc_ren), .rrow_i(acc_rrow), .out_en_i(1'b1), .rdata_o(acc_rdata), .error_o(acc_error)
  );

  residue_ram #(
    .WidthBits(PairBits), .DepthRows(TabRows), .RamStyle(TableStyle)
  ) i_tables (
    .clk, .rst_n, .clear_i(clearing),
    .wen_i(wb_tab_wen || load_tab),
    .wrow_i(wb_tab_wen ? wb_tab_wrow : TabRowBits'(s_load_row)),
    .wdata_i(wb_tab_wen ? wb_data : load_pair),
    .ren_i(tab_ren), .rrow_i(tab_rrow), .out_en_i(1'b1), .rdata_o(tab_rdata), .error_o(tab_error)
  );

  residue_ram #(
    .WidthBits(128), .DepthRows(ExpRows), .RamStyle(StoreStyle)
  ) i_exponents (
    .clk, .rst_n, .clear_i(clearing),
    .wen_i(load_exp), .wrow_i(ExpRowBits'(s_load_row)), .wdata_i(s_load_data),
    .ren_i(exp_ren), .rrow_i(exp_rrow), .out_en_i(1'b1), .rdata_o(exp_rdata), .error_o(exp_error)
  );

  residue_ram #(
    .WidthBits(PairBits), .DepthRows(ModRows), .RamStyle(StoreStyle)
  ) i_modulus (
    .clk, .rst_n, .clear_i(clearing),
    .wen_i(load_mod), .wrow_i(ModRowBits'(s_load_row)), .wdata_i(load_pair),
    .ren_i(mod_ren), .rrow_i(mod_rrow), .out_en_i(1'b1), .rdata_o(mod_rdata), .error_o(mod_error)
  );

  // ---- Emit queue ----------------------------------------------------------------------------------
  logic emit_ready;
  residue_row_queue #(.WidthBits(PairBits), .DepthEntries(EmitRows)) i_emit (
    .clk, .rst_n, .clear_i(clearing),
    .s_valid(wb_emit_wen), .s_ready(emit_ready), .s_data(wb_data),
    .m_valid(m_result_valid), .m_ready(m_result_ready), .m_data(m_result_data),
    .error_o(emit_error)
  );

  always_ff @(posedge clk) begin
    store_error_o <= rst_n && (acc_error || acc_b_error || tab_error || exp_error || mod_error ||
                               emit_error);
  end

  assign busy_o = sequencer_busy || !ring_idle || clearing || clear_i;

`ifndef SYNTHESIS
  always_ff @(posedge clk) begin
    if (rst_n && wb_emit_wen) a_emit_room : assert (emit_ready);
  end
`endif

endmodule

`default_nettype wire
