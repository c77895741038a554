// The card: registers, command processor, engine and DMA behind AXI4-Lite and one AXI4 master.
//
// A Zynq IP under an Overlay and an Alveo kernel alike. Interface: docs/card-abi.md and
// docs/registers.md; parameters: hw/configs.yaml.
`default_nettype none

module residue_card
  import residue_engine_pkg::*;
  import residue_abi_pkg::*;
#(
  parameter int unsigned DigitBits       = 17,
  parameter int unsigned Elements        = 21,
  parameter int unsigned Rings           = 1,
  parameter int unsigned Contexts        = 128,
  parameter int unsigned MaxModulusBits  = 4096,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned AxiDataBits     = 128,
  parameter int unsigned TableEntries    = 520
) (
  input  wire  logic                     clk,
  input  wire  logic                     rst_n,
  output       logic                     interrupt_o,
  // AXI4-Lite control
  input  wire  logic [11:0]              s_axil_awaddr,
  input  wire  logic [2:0]               s_axil_awprot,
  input  wire  logic                     s_axil_awvalid,
  output       logic                     s_axil_awready,
  input  wire  logic [31:0]              s_axil_wdata,
  input  wire  logic [3:0]               s_axil_wstrb,
  input  wire  logic                     s_axil_wvalid,
  output       logic                     s_axil_wready,
  output       logic [1:0]               s_axil_bresp,
  output       logic                     s_axil_bvalid,
  input  wire  logic                     s_axil_bready,
  input  wire  logic [11:0]              s_axil_araddr,
  input  wire  logic [2:0]               s_axil_arprot,
  input  wire  logic                     s_axil_arvalid,
  output       logic                     s_axil_arready,
  output       logic [31:0]              s_axil_rdata,
  output       logic [1:0]               s_axil_rresp,
  output       logic                     s_axil_rvalid,
  input  wire  logic                     s_axil_rready,
  // AXI4 master to card memory
  output       logic [0:0]               m_axi_arid,
  output       logic [63:0]              m_axi_araddr,
  output       logic [7:0]               m_axi_arlen,
  output       logic [2:0]               m_axi_arsize,
  output       logic [1:0]               m_axi_arburst,
  output       logic [3:0]               m_axi_arcache,
  output       logic [2:0]               m_axi_arprot,
  output       logic                     m_axi_arvalid,
  input  wire  logic                     m_axi_arready,
  input  wire  logic [0:0]               m_axi_rid,
  input  wire  logic [AxiDataBits-1:0]   m_axi_rdata,
  input  wire  logic [1:0]               m_axi_rresp,
  input  wire  logic                     m_axi_rlast,
  input  wire  logic                     m_axi_rvalid,
  output       logic                     m_axi_rready,
  output       logic [0:0]               m_axi_awid,
  output       logic [63:0]              m_axi_awaddr,
  output       logic [7:0]               m_axi_awlen,
  output       logic [2:0]               m_axi_awsize,
  output       logic [1:0]               m_axi_awburst,
  output       logic [3:0]               m_axi_awcache,
  output       logic [2:0]               m_axi_awprot,
  output       logic                     m_axi_awvalid,
  input  wire  logic                     m_axi_awready,
  output       logic [AxiDataBits-1:0]   m_axi_wdata,
  output       logic [AxiDataBits/8-1:0] m_axi_wstrb,
  output       logic                     m_axi_wlast,
  output       logic                     m_axi_wvalid,
  input  wire  logic                     m_axi_wready,
  input  wire  logic [0:0]               m_axi_bid,
  input  wire  logic [1:0]               m_axi_bresp,
  input  wire  logic                     m_axi_bvalid,
  output       logic                     m_axi_bready
);

  localparam int unsigned WordBits    = 3 * DigitBits;
  localparam int unsigned MaxWords    = f_k_max(MaxModulusBits, WordBits);
  localparam int unsigned NRowBits    = $clog2(MaxWords / 2);
  localparam int unsigned EmitResults = 16;
  localparam int unsigned RowBits     = f_row_bits(f_acc_rows(Contexts, MaxWords),
                                                   f_tab_rows(TableEntries, MaxWords),
                                                   f_exp_rows(Contexts, MaxExponentBits));

  if (AxiDataBits != 128) begin : g_axi_check
    $error("AxiDataBits: a beat is one row of two 64-bit words, 128 bits");
  end
  if (Rings != 1) begin : g_rings_check
    $error("Rings: this card has one ring");
  end

  // Where read data goes, carried as the request's tag
  typedef struct packed {
    logic [2:0]         store;   // 0 accumulators, 1 tables, 2 exponents, 3 M, 4 index, 5 N, 6 commands
    logic [RowBits-1:0] row;
    logic [2:0]         what;    // 1 initial, 2 exponent, 3 table row, 4 operand
  } read_tag_t;

  // ---- Registers -----------------------------------------------------------------------------------
  logic start, ready, done, commands_idle, soft_reset;
  logic [63:0] queue_base, mem_base, mem_limit;
  logic [15:0] queue_size, tail, head;
  logic slot_busy, product, stall, command_done, command_error;
  logic read_idle, write_idle;

  residue_regs #(
    .WordBits(WordBits), .Elements(Elements), .Rings(Rings), .AxiDataBits(AxiDataBits),
    .MaxModulusBits(MaxModulusBits), .MaxExponentBits(MaxExponentBits), .Contexts(Contexts),
    .MaxWords(MaxWords), .TableEntries(TableEntries)
  ) i_regs (
    .clk, .rst_n,
    .s_axil_awaddr, .s_axil_awprot, .s_axil_awvalid, .s_axil_awready,
    .s_axil_wdata, .s_axil_wstrb, .s_axil_wvalid, .s_axil_wready,
    .s_axil_bresp, .s_axil_bvalid, .s_axil_bready,
    .s_axil_araddr, .s_axil_arprot, .s_axil_arvalid, .s_axil_arready,
    .s_axil_rdata, .s_axil_rresp, .s_axil_rvalid, .s_axil_rready,
    .start_o(start), .ready_i(ready), .done_i(done),
    .idle_i(commands_idle && read_idle && write_idle),
    .soft_reset_o(soft_reset), .interrupt_o,
    .queue_base_o(queue_base), .queue_size_o(queue_size), .tail_o(tail), .head_i(head),
    .mem_base_o(mem_base), .mem_limit_o(mem_limit),
    .inc_busy_i(slot_busy), .inc_products_i(product),
    .inc_read_beats_i(m_axi_rvalid && m_axi_rready),
    .inc_write_beats_i(m_axi_wvalid && m_axi_wready),
    .inc_stalls_i(stall), .inc_commands_i(command_done), .inc_errors_i(command_error)
  );

  wire logic core_rst_n = rst_n && !soft_reset;

  // ---- Command processor ---------------------------------------------------------------------------
  job_t job;
  logic job_start, job_abort, job_flush, job_clear;
  logic [WordBits-1:0] n0inv;
  logic engine_busy, loader_busy, storer_busy, storer_waiting, mismatch;
  logic read_window_error, read_axi_error, write_window_error, write_axi_error, error_clear;

  logic cmd_read_valid, cmd_read_ready;
  logic [63:0] cmd_read_addr;
  logic [15:0] cmd_read_beats;
  logic [2:0] cmd_read_store;
  logic [RowBits-1:0] cmd_read_row;
  logic cmd_write_valid, cmd_write_ready, cmd_data_valid, cmd_data_ready;
  logic [63:0] cmd_write_addr;
  logic [15:0] cmd_write_beats;
  logic [127:0] cmd_data;

  // Read data
  logic read_valid, read_ready, read_last, read_error;
  logic [AxiDataBits-1:0] read_data;
  read_tag_t read_tag;
  logic [RowBits-1:0] read_beat_q;
  wire logic read_taken = read_valid && read_ready;
  wire logic [RowBits-1:0] read_row = read_tag.row + read_beat_q;
  wire logic [2*WordBits-1:0] read_pair = {read_data[64 +: WordBits], read_data[0 +: WordBits]};
  wire logic n_wen = read_taken && (read_tag.store == 3'd5);

  residue_commands #(
    .WordBits(WordBits), .Elements(Elements), .MaxWords(MaxWords), .Contexts(Contexts),
    .TableEntries(TableEntries), .MaxExponentBits(MaxExponentBits), .EmitResults(EmitResults),
    .RowBits(RowBits)
  ) i_commands (
    .clk, .rst_n(core_rst_n),
    .start_i(start), .ready_o(ready), .done_o(done), .idle_o(commands_idle),
    .queue_base_i(queue_base), .queue_size_i(queue_size), .tail_i(tail), .head_o(head),
    .command_o(command_done), .error_o(command_error),
    .job_o(job), .start_o(job_start), .abort_o(job_abort), .flush_o(job_flush),
    .clear_o(job_clear), .n0inv_o(n0inv),
    .engine_busy_i(engine_busy), .loader_busy_i(loader_busy), .storer_busy_i(storer_busy),
    .storer_waiting_i(storer_waiting), .mismatch_i(mismatch),
    .modulus_even_i(n_wen && (read_row == '0) && !read_data[0]),
    .slot_busy_i(slot_busy), .product_i(product),
    .read_idle_i(read_idle), .write_idle_i(write_idle),
    .read_window_error_i(read_window_error), .read_axi_error_i(read_axi_error),
    .write_window_error_i(write_window_error), .write_axi_error_i(write_axi_error),
    .error_clear_o(error_clear),
    .m_read_valid(cmd_read_valid), .m_read_ready(cmd_read_ready), .m_read_addr(cmd_read_addr),
    .m_read_beats(cmd_read_beats), .m_read_store(cmd_read_store), .m_read_row(cmd_read_row),
    .s_answer_valid(read_taken && (read_tag.store == 3'd6)), .s_answer_last(read_last),
    .s_answer_data(read_data),
    .m_write_valid(cmd_write_valid), .m_write_ready(cmd_write_ready),
    .m_write_addr(cmd_write_addr), .m_write_beats(cmd_write_beats),
    .m_data_valid(cmd_data_valid), .m_data_ready(cmd_data_ready), .m_data(cmd_data)
  );

  // ---- Loader --------------------------------------------------------------------------------------
  logic load_valid, load_ready;
  logic [63:0] load_addr;
  logic [15:0] load_beats;
  logic [2:0] load_store, load_event;
  logic [RowBits-1:0] load_row;
  logic retire, retire_round, retire_group;

  residue_loader #(.RowBits(RowBits), .MaxGroup(Contexts)) i_loader (
    .clk, .rst_n(core_rst_n), .start_i(job_start), .abort_i(job_abort), .job_i(job),
    .busy_o(loader_busy),
    .retire_i(retire), .retire_round_i(retire_round), .retire_group_i(retire_group),
    .s_index_valid(read_taken && (read_tag.store == 3'd4)), .s_index_last(read_last),
    .s_index_data(read_data),
    .m_req_valid(load_valid), .m_req_ready(load_ready), .m_req_addr(load_addr),
    .m_req_beats(load_beats), .m_req_store(load_store), .m_req_row(load_row),
    .m_req_event(load_event)
  );

  // The command processor reads only while the loader rests.
  read_tag_t req_tag;
  logic req_ready;
  assign req_tag = cmd_read_valid
                   ? '{store: cmd_read_store, row: cmd_read_row, what: 3'd0}
                   : '{store: load_store, row: load_row, what: load_event};
  assign cmd_read_ready = req_ready;
  assign load_ready     = req_ready && !cmd_read_valid;

  residue_dma_read #(
    .AxiDataBits(AxiDataBits), .MaxOutstanding(16), .TagBits($bits(read_tag_t))
  ) i_dma_read (
    .clk, .rst_n, .flush_i(soft_reset), .error_clear_i(error_clear),
    .mem_base_i(mem_base), .mem_limit_i(mem_limit),
    .idle_o(read_idle), .error_window_o(read_window_error), .error_axi_o(read_axi_error),
    .s_req_valid(cmd_read_valid || load_valid), .s_req_ready(req_ready),
    .s_req_addr(cmd_read_valid ? cmd_read_addr : load_addr),
    .s_req_beats(cmd_read_valid ? cmd_read_beats : load_beats), .s_req_tag(req_tag),
    .m_valid(read_valid), .m_ready(read_ready), .m_data(read_data), .m_last(read_last),
    .m_error(read_error), .m_tag(read_tag),
    .m_axi_arid, .m_axi_araddr, .m_axi_arlen, .m_axi_arsize, .m_axi_arburst, .m_axi_arcache,
    .m_axi_arprot, .m_axi_arvalid, .m_axi_arready, .m_axi_rid, .m_axi_rdata, .m_axi_rresp,
    .m_axi_rlast, .m_axi_rvalid, .m_axi_rready
  );

  always_ff @(posedge clk) begin
    if (!core_rst_n)     read_beat_q <= '0;
    else if (read_taken) read_beat_q <= read_last ? '0 : read_beat_q + RowBits'(1);
  end

  // ---- Engine --------------------------------------------------------------------------------------
  logic engine_load_ready;
  wire logic to_engine = (read_tag.store < 3'd4);
  assign read_ready = !to_engine || engine_load_ready;
  wire logic arrived = read_taken && read_last && !read_error;

  logic result_valid, result_ready, result_taken;
  logic [2*WordBits-1:0] result_data;

  residue_engine #(
    .DigitBits(DigitBits), .Elements(Elements), .MaxWords(MaxWords), .Contexts(Contexts),
    .TableEntries(TableEntries), .MaxExponentBits(MaxExponentBits), .EmitResults(EmitResults)
  ) i_engine (
    .clk, .rst_n(core_rst_n), .start_i(job_start), .abort_i(job_abort), .clear_i(job_clear),
    .job_i(job), .busy_o(engine_busy),
    .init_arrived_i(arrived && read_tag.what == 3'd1),
    .exponent_arrived_i(arrived && read_tag.what == 3'd2),
    .row_arrived_i(arrived && read_tag.what == 3'd3),
    .operand_arrived_i(arrived && read_tag.what == 3'd4),
    .retire_o(retire), .retire_round_o(retire_round), .retire_group_o(retire_group),
    .s_load_valid(read_valid && to_engine && !read_error), .s_load_ready(engine_load_ready),
    .s_load_store(read_tag.store[1:0]), .s_load_row(read_row), .s_load_data(read_data),
    .m_result_valid(result_valid), .m_result_ready(result_ready), .m_result_data(result_data),
    .result_taken_i(result_taken),
    .slot_busy_o(slot_busy), .product_o(product), .stall_o(stall)
  );

  // ---- Storer --------------------------------------------------------------------------------------
  logic store_req_valid, store_req_ready, store_valid, store_ready;
  logic [63:0] store_addr;
  logic [15:0] store_beats;
  logic [127:0] store_data;

  residue_storer #(.DigitBits(DigitBits), .MaxWords(MaxWords)) i_storer (
    .clk, .rst_n(core_rst_n), .start_i(job_start), .abort_i(job_abort), .flush_i(job_flush),
    .job_i(job), .busy_o(storer_busy), .waiting_o(storer_waiting), .mismatch_o(mismatch),
    .n0inv_i(n0inv), .n_wen_i(n_wen), .n_wrow_i(NRowBits'(read_row)), .n_wdata_i(read_pair),
    .s_result_valid(result_valid), .s_result_ready(result_ready), .s_result_data(result_data),
    .result_taken_o(result_taken),
    .m_req_valid(store_req_valid), .m_req_ready(store_req_ready), .m_req_addr(store_addr),
    .m_req_beats(store_beats), .m_data_valid(store_valid), .m_data_ready(store_ready),
    .m_data(store_data)
  );

  // Results and completion records take turns: a record is written when the storer rests.
  logic write_req_ready, write_ready;
  assign cmd_write_ready = write_req_ready;
  assign store_req_ready = write_req_ready && !cmd_write_valid;
  assign cmd_data_ready  = write_ready;
  assign store_ready     = write_ready && !cmd_data_valid;

  residue_dma_write #(.AxiDataBits(AxiDataBits), .MaxOutstanding(16)) i_dma_write (
    .clk, .rst_n, .flush_i(soft_reset), .error_clear_i(error_clear),
    .mem_base_i(mem_base), .mem_limit_i(mem_limit),
    .idle_o(write_idle), .error_window_o(write_window_error), .error_axi_o(write_axi_error),
    .s_req_valid(cmd_write_valid || store_req_valid), .s_req_ready(write_req_ready),
    .s_req_addr(cmd_write_valid ? cmd_write_addr : store_addr),
    .s_req_beats(cmd_write_valid ? cmd_write_beats : store_beats),
    .s_valid(cmd_data_valid || store_valid), .s_ready(write_ready),
    .s_data(cmd_data_valid ? cmd_data : store_data),
    .m_axi_awid, .m_axi_awaddr, .m_axi_awlen, .m_axi_awsize, .m_axi_awburst, .m_axi_awcache,
    .m_axi_awprot, .m_axi_awvalid, .m_axi_awready, .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast,
    .m_axi_wvalid, .m_axi_wready, .m_axi_bid, .m_axi_bresp, .m_axi_bvalid, .m_axi_bready
  );

endmodule

`default_nettype wire
