// The card: registers, command processor and clusters of lanes behind AXI4-Lite and AXI4 masters.
//
// Rings lanes share Masters AXI4 masters evenly; every master reaches the same memory. What passes
// between the command processor and the clusters is registered on the way, so that a cluster may
// stand on a die of its own.
// A Zynq IP under an Overlay and an Alveo kernel alike. Interface: docs/card-abi.md and
// docs/registers.md; parameters: hw/configs.yaml.
`default_nettype none

module residue_card
  import residue_engine_pkg::*;
#(
  parameter int unsigned WordBits        = 51,
  parameter bit          Karatsuba       = 1'b0,
  parameter int unsigned Elements        = 21,
  parameter int unsigned Rings           = 1,
  parameter int unsigned Masters         = 1,
  parameter int unsigned Contexts        = 128,
  parameter int unsigned MaxModulusBits  = 4096,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned AxiDataBits     = 128,
  parameter int unsigned TableEntries    = 528
) (
  input  wire  logic                                    clk,
  input  wire  logic                                    rst_n,
  output       logic                                    interrupt_o,
  // AXI4-Lite control
  input  wire  logic [11:0]                             s_axil_awaddr,
  input  wire  logic [2:0]                              s_axil_awprot,
  input  wire  logic                                    s_axil_awvalid,
  output       logic                                    s_axil_awready,
  input  wire  logic [31:0]                             s_axil_wdata,
  input  wire  logic [3:0]                              s_axil_wstrb,
  input  wire  logic                                    s_axil_wvalid,
  output       logic                                    s_axil_wready,
  output       logic [1:0]                              s_axil_bresp,
  output       logic                                    s_axil_bvalid,
  input  wire  logic                                    s_axil_bready,
  input  wire  logic [11:0]                             s_axil_araddr,
  input  wire  logic [2:0]                              s_axil_arprot,
  input  wire  logic                                    s_axil_arvalid,
  output       logic                                    s_axil_arready,
  output       logic [31:0]                             s_axil_rdata,
  output       logic [1:0]                              s_axil_rresp,
  output       logic                                    s_axil_rvalid,
  input  wire  logic                                    s_axil_rready,
  // AXI4 masters to card memory
  output       logic [Masters-1:0][0:0]                 m_axi_arid,
  output       logic [Masters-1:0][63:0]                m_axi_araddr,
  output       logic [Masters-1:0][7:0]                 m_axi_arlen,
  output       logic [Masters-1:0][2:0]                 m_axi_arsize,
  output       logic [Masters-1:0][1:0]                 m_axi_arburst,
  output       logic [Masters-1:0][3:0]                 m_axi_arcache,
  output       logic [Masters-1:0][2:0]                 m_axi_arprot,
  output       logic [Masters-1:0]                      m_axi_arvalid,
  input  wire  logic [Masters-1:0]                      m_axi_arready,
  input  wire  logic [Masters-1:0][0:0]                 m_axi_rid,
  input  wire  logic [Masters-1:0][AxiDataBits-1:0]     m_axi_rdata,
  input  wire  logic [Masters-1:0][1:0]                 m_axi_rresp,
  input  wire  logic [Masters-1:0]                      m_axi_rlast,
  input  wire  logic [Masters-1:0]                      m_axi_rvalid,
  output       logic [Masters-1:0]                      m_axi_rready,
  output       logic [Masters-1:0][0:0]                 m_axi_awid,
  output       logic [Masters-1:0][63:0]                m_axi_awaddr,
  output       logic [Masters-1:0][7:0]                 m_axi_awlen,
  output       logic [Masters-1:0][2:0]                 m_axi_awsize,
  output       logic [Masters-1:0][1:0]                 m_axi_awburst,
  output       logic [Masters-1:0][3:0]                 m_axi_awcache,
  output       logic [Masters-1:0][2:0]                 m_axi_awprot,
  output       logic [Masters-1:0]                      m_axi_awvalid,
  input  wire  logic [Masters-1:0]                      m_axi_awready,
  output       logic [Masters-1:0][AxiDataBits-1:0]     m_axi_wdata,
  output       logic [Masters-1:0][AxiDataBits/8-1:0]   m_axi_wstrb,
  output       logic [Masters-1:0]                      m_axi_wlast,
  output       logic [Masters-1:0]                      m_axi_wvalid,
  input  wire  logic [Masters-1:0]                      m_axi_wready,
  input  wire  logic [Masters-1:0][0:0]                 m_axi_bid,
  input  wire  logic [Masters-1:0][1:0]                 m_axi_bresp,
  input  wire  logic [Masters-1:0]                      m_axi_bvalid,
  output       logic [Masters-1:0]                      m_axi_bready
);

  localparam int unsigned DigitsPerWord = Karatsuba ? 2 : 1;
  localparam int unsigned Lanes       = Rings / Masters;
  localparam int unsigned MaxWords    = f_k_max(MaxModulusBits, WordBits, DigitsPerWord);
  localparam int unsigned EmitResults = 16;
  localparam int unsigned RingBits    = (Rings > 1) ? $clog2(Rings) : 1;
  localparam int unsigned RowBits     = f_row_bits(f_acc_rows(Contexts, MaxWords),
                                                   f_tab_rows(TableEntries, MaxWords),
                                                   f_exp_rows(Contexts, MaxExponentBits));

  if (Rings == 0 || Masters == 0 || Rings % Masters != 0) begin : g_rings_check
    $error("Rings: a multiple of Masters");
  end

  // ---- Registers -----------------------------------------------------------------------------------
  logic start, ready, done, commands_idle, soft_reset;
  logic [63:0] queue_base, mem_base, mem_limit;
  logic [15:0] queue_size, tail, head;
  logic command_done, command_error;
  logic [7:0]  inc_busy_q, inc_products_q, inc_stalls_q;
  logic [15:0] inc_read_bytes_q, inc_write_bytes_q;
  logic [Masters-1:0] read_idle, write_idle;
  logic [Masters-1:0] near_read_idle_q, near_write_idle_q;
  logic read_idle_q, write_idle_q;

  residue_regs #(
    .WordBits(WordBits), .DigitsPerWord(DigitsPerWord), .Elements(Elements), .Rings(Rings),
    .Masters(Masters), .AxiDataBits(AxiDataBits), .MaxModulusBits(MaxModulusBits),
    .MaxExponentBits(MaxExponentBits), .Contexts(Contexts), .MaxWords(MaxWords),
    .TableEntries(TableEntries)
  ) i_regs (
    .clk, .rst_n,
    .s_axil_awaddr, .s_axil_awprot, .s_axil_awvalid, .s_axil_awready,
    .s_axil_wdata, .s_axil_wstrb, .s_axil_wvalid, .s_axil_wready,
    .s_axil_bresp, .s_axil_bvalid, .s_axil_bready,
    .s_axil_araddr, .s_axil_arprot, .s_axil_arvalid, .s_axil_arready,
    .s_axil_rdata, .s_axil_rresp, .s_axil_rvalid, .s_axil_rready,
    .start_o(start), .ready_i(ready), .done_i(done),
    .idle_i(commands_idle && read_idle_q && write_idle_q),
    .soft_reset_o(soft_reset), .interrupt_o,
    .queue_base_o(queue_base), .queue_size_o(queue_size), .tail_o(tail), .head_i(head),
    .mem_base_o(mem_base), .mem_limit_o(mem_limit),
    .inc_busy_i(inc_busy_q), .inc_products_i(inc_products_q),
    .inc_read_bytes_i(inc_read_bytes_q), .inc_write_bytes_i(inc_write_bytes_q),
    .inc_stalls_i(inc_stalls_q), .inc_commands_i(command_done), .inc_errors_i(command_error)
  );

  wire logic core_rst_n = rst_n && !soft_reset;

  // ---- Command processor ---------------------------------------------------------------------------
  job_t      job;
  lane_job_t share;
  logic      share_valid, job_start, job_abort, job_flush, job_clear, error_clear;
  logic [RingBits-1:0] share_ring;
  logic [WordBits-1:0] n0inv;
  lane_state_t state_q;
  logic [Masters-1:0] read_window_error, read_axi_error, write_window_error, write_axi_error;
  logic read_window_error_q, read_axi_error_q, write_window_error_q, write_axi_error_q;

  logic               cmd_read_valid;
  logic [Masters-1:0] cmd_read_ready;
  logic [63:0]        cmd_read_addr;
  logic [15:0]        cmd_read_rows;
  logic [2:0]         cmd_read_store;
  logic [RowBits-1:0] cmd_read_row;
  logic [Masters-1:0] answer_valid, answer_last, modulus_even;
  logic [Masters-1:0][127:0] answer_data;
  logic               cmd_write_valid, cmd_data_valid, cmd_data_last;
  logic [Masters-1:0] cmd_write_ready, cmd_data_ready;
  logic [63:0]        cmd_write_addr;
  logic [15:0]        cmd_write_rows;
  logic [127:0]       cmd_data;

  wire logic unused = &{1'b0, answer_valid, answer_last, answer_data, modulus_even,
                        cmd_write_ready, cmd_data_ready};

  // Every cluster reads the modulus for its lanes; the first one serves the command processor.
  wire logic cmd_read_all   = (cmd_read_store != 3'd6);
  wire logic cmd_read_taken = cmd_read_all ? &cmd_read_ready : cmd_read_ready[0];

  residue_commands #(
    .WordBits(WordBits), .Karatsuba(Karatsuba), .Elements(Elements), .Rings(Rings),
    .MaxWords(MaxWords), .Contexts(Contexts), .TableEntries(TableEntries),
    .MaxExponentBits(MaxExponentBits), .EmitResults(EmitResults), .RowBits(RowBits)
  ) i_commands (
    .clk, .rst_n(core_rst_n),
    .start_i(start), .ready_o(ready), .done_o(done), .idle_o(commands_idle),
    .queue_base_i(queue_base), .queue_size_i(queue_size), .tail_i(tail), .head_o(head),
    .command_o(command_done), .error_o(command_error),
    .job_o(job), .share_valid_o(share_valid), .share_ring_o(share_ring), .share_o(share),
    .start_o(job_start), .abort_o(job_abort), .flush_o(job_flush),
    .clear_o(job_clear), .n0inv_o(n0inv),
    .engine_busy_i(state_q.engine_busy), .loader_busy_i(state_q.loader_busy),
    .storer_busy_i(state_q.storer_busy), .storer_waiting_i(state_q.storer_waiting),
    .mismatch_i(state_q.mismatch), .store_error_i(state_q.store_error),
    .element_modulus_bad_i(state_q.bad_modulus), .element_modulus_even_i(state_q.even_modulus),
    .modulus_even_i(modulus_even[0]),
    .inc_busy_i(inc_busy_q), .inc_products_i(inc_products_q), .inc_stalls_i(inc_stalls_q),
    .inc_read_bytes_i(inc_read_bytes_q), .inc_write_bytes_i(inc_write_bytes_q),
    .read_idle_i(read_idle_q), .write_idle_i(write_idle_q),
    .read_window_error_i(read_window_error_q), .read_axi_error_i(read_axi_error_q),
    .write_window_error_i(write_window_error_q), .write_axi_error_i(write_axi_error_q),
    .error_clear_o(error_clear),
    .m_read_valid(cmd_read_valid), .m_read_ready(cmd_read_taken), .m_read_addr(cmd_read_addr),
    .m_read_rows(cmd_read_rows), .m_read_store(cmd_read_store), .m_read_row(cmd_read_row),
    .s_answer_valid(answer_valid[0]), .s_answer_last(answer_last[0]),
    .s_answer_data(answer_data[0]),
    .m_write_valid(cmd_write_valid), .m_write_ready(cmd_write_ready[0]),
    .m_write_addr(cmd_write_addr), .m_write_rows(cmd_write_rows),
    .m_data_valid(cmd_data_valid), .m_data_ready(cmd_data_ready[0]), .m_data(cmd_data),
    .m_data_last(cmd_data_last)
  );

  // ---- Clusters ------------------------------------------------------------------------------------
  lane_state_t [Rings-1:0] lane_state;
  lane_count_t [Rings-1:0] lane_count;
  logic [Masters-1:0] read_beat, write_beat;

  for (genvar c = 0; c < Masters; c++) begin : g_cluster
    // Orders on their way
    job_t              job_q;
    lane_job_t         share_q;
    logic [Lanes-1:0]  share_valid_q;
    logic              start_q, abort_q, flush_q, clear_q;
    lane_state_t [Lanes-1:0] state;
    lane_count_t [Lanes-1:0] count;

    always_ff @(posedge clk) begin
      job_q   <= job;
      share_q <= share;
      for (int unsigned i = 0; i < Lanes; i++)
        share_valid_q[i] <= share_valid && (share_ring == RingBits'(c * Lanes + i));
      start_q <= core_rst_n && job_start;
      abort_q <= core_rst_n && job_abort;
      flush_q <= core_rst_n && job_flush;
      clear_q <= core_rst_n && job_clear;
      lane_state[c*Lanes +: Lanes] <= state;
      lane_count[c*Lanes +: Lanes] <= core_rst_n ? count : '0;
      near_read_idle_q[c]  <= core_rst_n && read_idle[c];
      near_write_idle_q[c] <= core_rst_n && write_idle[c];
    end

    residue_cluster #(
      .Lanes(Lanes), .AxiDataBits(AxiDataBits), .WordBits(WordBits), .Karatsuba(Karatsuba),
      .Elements(Elements), .MaxWords(MaxWords), .Contexts(Contexts), .TableEntries(TableEntries),
      .MaxExponentBits(MaxExponentBits), .EmitResults(EmitResults)
    ) i_cluster (
      .clk, .rst_n, .soft_reset_i(soft_reset), .mem_base_i(mem_base), .mem_limit_i(mem_limit),
      .start_i(start_q), .abort_i(abort_q), .flush_i(flush_q), .clear_i(clear_q), .job_i(job_q),
      .share_valid_i(share_valid_q), .share_i(share_q), .n0inv_i(n0inv), .state_o(state),
      .count_o(count),
      .error_clear_i(error_clear), .read_idle_o(read_idle[c]), .write_idle_o(write_idle[c]),
      .read_window_error_o(read_window_error[c]), .read_axi_error_o(read_axi_error[c]),
      .write_window_error_o(write_window_error[c]), .write_axi_error_o(write_axi_error[c]),
      .read_beat_o(read_beat[c]), .write_beat_o(write_beat[c]),
      .s_read_valid(cmd_read_valid && (cmd_read_all ? cmd_read_taken : c == 0)),
      .s_read_ready(cmd_read_ready[c]), .s_read_addr(cmd_read_addr),
      .s_read_rows(cmd_read_rows), .s_read_store(cmd_read_store), .s_read_row(cmd_read_row),
      .answer_valid_o(answer_valid[c]), .answer_last_o(answer_last[c]),
      .answer_data_o(answer_data[c]), .modulus_even_o(modulus_even[c]),
      .s_write_valid(cmd_write_valid && c == 0), .s_write_ready(cmd_write_ready[c]),
      .s_write_addr(cmd_write_addr), .s_write_rows(cmd_write_rows),
      .s_data_valid(cmd_data_valid && c == 0), .s_data_ready(cmd_data_ready[c]),
      .s_data(cmd_data), .s_data_last(cmd_data_last),
      .m_axi_arid(m_axi_arid[c]), .m_axi_araddr(m_axi_araddr[c]), .m_axi_arlen(m_axi_arlen[c]),
      .m_axi_arsize(m_axi_arsize[c]), .m_axi_arburst(m_axi_arburst[c]),
      .m_axi_arcache(m_axi_arcache[c]), .m_axi_arprot(m_axi_arprot[c]),
      .m_axi_arvalid(m_axi_arvalid[c]), .m_axi_arready(m_axi_arready[c]), .m_axi_rid(m_axi_rid[c]),
      .m_axi_rdata(m_axi_rdata[c]), .m_axi_rresp(m_axi_rresp[c]), .m_axi_rlast(m_axi_rlast[c]),
      .m_axi_rvalid(m_axi_rvalid[c]), .m_axi_rready(m_axi_rready[c]), .m_axi_awid(m_axi_awid[c]),
      .m_axi_awaddr(m_axi_awaddr[c]), .m_axi_awlen(m_axi_awlen[c]), .m_axi_awsize(m_axi_awsize[c]),
      .m_axi_awburst(m_axi_awburst[c]), .m_axi_awcache(m_axi_awcache[c]),
      .m_axi_awprot(m_axi_awprot[c]), .m_axi_awvalid(m_axi_awvalid[c]),
      .m_axi_awready(m_axi_awready[c]), .m_axi_wdata(m_axi_wdata[c]), .m_axi_wstrb(m_axi_wstrb[c]),
      .m_axi_wlast(m_axi_wlast[c]), .m_axi_wvalid(m_axi_wvalid[c]), .m_axi_wready(m_axi_wready[c]),
      .m_axi_bid(m_axi_bid[c]), .m_axi_bresp(m_axi_bresp[c]), .m_axi_bvalid(m_axi_bvalid[c]),
      .m_axi_bready(m_axi_bready[c])
    );
  end

  // ---- What the clusters say -------------------------------------------------------------------------
  always_ff @(posedge clk) begin
    read_idle_q          <= core_rst_n && (&near_read_idle_q);
    write_idle_q         <= core_rst_n && (&near_write_idle_q);
    read_window_error_q  <= |read_window_error;
    read_axi_error_q     <= |read_axi_error;
    write_window_error_q <= |write_window_error;
    write_axi_error_q    <= |write_axi_error;
    inc_read_bytes_q     <= 16'(AxiDataBits / 8) * 16'($countones(read_beat));
    inc_write_bytes_q    <= 16'(AxiDataBits / 8) * 16'($countones(write_beat));
  end

  lane_state_t any;
  logic [7:0] busy, products, stalls;
  always_comb begin
    any = '0;
    any.storer_waiting = 1'b1;
    busy     = '0;
    products = '0;
    stalls   = '0;
    for (int unsigned i = 0; i < Rings; i++) begin
      any.engine_busy    |= lane_state[i].engine_busy;
      any.loader_busy    |= lane_state[i].loader_busy;
      any.storer_busy    |= lane_state[i].storer_busy;
      any.storer_waiting &= lane_state[i].storer_waiting || !lane_state[i].storer_busy;
      any.mismatch       |= lane_state[i].mismatch;
      any.store_error    |= lane_state[i].store_error;
      any.bad_modulus    |= lane_state[i].bad_modulus;
      any.even_modulus   |= lane_state[i].even_modulus;
      busy     += 8'(lane_count[i].slot_busy);
      products += 8'(lane_count[i].product);
      stalls   += 8'(lane_count[i].stall);
    end
  end
  always_ff @(posedge clk) begin
    state_q        <= any;
    inc_busy_q     <= !core_rst_n ? '0 : busy;
    inc_products_q <= !core_rst_n ? '0 : products;
    inc_stalls_q   <= !core_rst_n ? '0 : stalls;
  end

endmodule

`default_nettype wire
