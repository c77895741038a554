// Lanes that share one AXI4 master: one reader, one writer, one fetcher of table rows.
//
// The command processor's reads go before the lanes'; the rows of a modulus go to all lanes at once.
// Its own rows (store 6) come back through lane 0, and its records leave in front of lane 0's
// results, which rest then.
`default_nettype none

module residue_cluster
  import residue_engine_pkg::*;
#(
  parameter int unsigned Lanes           = 2,
  parameter int unsigned AxiDataBits     = 128,
  parameter int unsigned WordBits        = 51,
  parameter bit          Karatsuba       = 1'b0,
  parameter int unsigned Elements        = 21,
  parameter int unsigned MaxWords        = 82,
  parameter int unsigned Contexts        = 128,
  parameter int unsigned TableEntries    = 528,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned EmitResults     = 16,
  localparam int unsigned RowBits        = f_row_bits(f_acc_rows(Contexts, MaxWords),
                                                      f_tab_rows(TableEntries, MaxWords),
                                                      f_exp_rows(Contexts, MaxExponentBits))
) (
  input  wire  logic                       clk,
  input  wire  logic                       rst_n,
  input  wire  logic                       soft_reset_i,  // pulse
  input  wire  logic [63:0]                mem_base_i,
  input  wire  logic [63:0]                mem_limit_i,
  // Command
  input  wire  logic                       start_i,
  input  wire  logic                       abort_i,
  input  wire  logic                       flush_i,
  input  wire  logic                       clear_i,
  input  wire  job_t                       job_i,
  input  wire  logic [Lanes-1:0]           share_valid_i,
  input  wire  lane_job_t                  share_i,
  input  wire  logic [WordBits-1:0]        n0inv_i,
  output       lane_state_t [Lanes-1:0]    state_o,
  output       lane_count_t [Lanes-1:0]    count_o,
  // The bus; its error flags stay until cleared
  input  wire  logic                       error_clear_i,
  output       logic                       read_idle_o,
  output       logic                       write_idle_o,
  output       logic                       read_window_error_o,
  output       logic                       read_axi_error_o,
  output       logic                       write_window_error_o,
  output       logic                       write_axi_error_o,
  output       logic                       read_beat_o,
  output       logic                       write_beat_o,
  // The command processor's reads
  input  wire  logic                       s_read_valid,
  output       logic                       s_read_ready,
  input  wire  logic [63:0]                s_read_addr,
  input  wire  logic [15:0]                s_read_rows,
  input  wire  logic [2:0]                 s_read_store,
  input  wire  logic [RowBits-1:0]         s_read_row,
  output       logic                       answer_valid_o,
  output       logic                       answer_last_o,
  output       logic [127:0]               answer_data_o,
  output       logic                       modulus_even_o,  // pulse: N that arrives is even
  // Its writes
  input  wire  logic                       s_write_valid,
  output       logic                       s_write_ready,
  input  wire  logic [63:0]                s_write_addr,
  input  wire  logic [15:0]                s_write_rows,
  input  wire  logic                       s_data_valid,
  output       logic                       s_data_ready,
  input  wire  logic [127:0]               s_data,
  input  wire  logic                       s_data_last,
  // AXI4 master
  output       logic [0:0]                 m_axi_arid,
  output       logic [63:0]                m_axi_araddr,
  output       logic [7:0]                 m_axi_arlen,
  output       logic [2:0]                 m_axi_arsize,
  output       logic [1:0]                 m_axi_arburst,
  output       logic [3:0]                 m_axi_arcache,
  output       logic [2:0]                 m_axi_arprot,
  output       logic                       m_axi_arvalid,
  input  wire  logic                       m_axi_arready,
  input  wire  logic [0:0]                 m_axi_rid,
  input  wire  logic [AxiDataBits-1:0]     m_axi_rdata,
  input  wire  logic [1:0]                 m_axi_rresp,
  input  wire  logic                       m_axi_rlast,
  input  wire  logic                       m_axi_rvalid,
  output       logic                       m_axi_rready,
  output       logic [0:0]                 m_axi_awid,
  output       logic [63:0]                m_axi_awaddr,
  output       logic [7:0]                 m_axi_awlen,
  output       logic [2:0]                 m_axi_awsize,
  output       logic [1:0]                 m_axi_awburst,
  output       logic [3:0]                 m_axi_awcache,
  output       logic [2:0]                 m_axi_awprot,
  output       logic                       m_axi_awvalid,
  input  wire  logic                       m_axi_awready,
  output       logic [AxiDataBits-1:0]     m_axi_wdata,
  output       logic [AxiDataBits/8-1:0]   m_axi_wstrb,
  output       logic                       m_axi_wlast,
  output       logic                       m_axi_wvalid,
  input  wire  logic                       m_axi_wready,
  input  wire  logic [0:0]                 m_axi_bid,
  input  wire  logic [1:0]                 m_axi_bresp,
  input  wire  logic                       m_axi_bvalid,
  output       logic                       m_axi_bready
);

  // Requesters: the command processor, the table rows, the lanes.
  localparam int unsigned Ports     = Lanes + 2;
  localparam int unsigned IndexBits = (RowBits < 16) ? RowBits : 16;

  // Where rows go, carried as the request's tag
  typedef struct packed {
    logic [2:0]         store;
    logic [RowBits-1:0] row;
    logic [2:0]         what;
  } tag_t;

  wire logic core_rst_n = rst_n && !soft_reset_i;

  logic [Ports-1:0]                req_valid, req_ready;
  logic [Ports-1:0][63:0]          req_addr;
  logic [Ports-1:0][15:0]          req_rows;
  tag_t [Ports-1:0]                req_tag;
  logic [Ports-1:0][Lanes-1:0]     req_targets;
  logic [Lanes-1:0]                row_valid, row_ready, row_last, row_error;
  logic [Lanes-1:0][127:0]         row_data;
  tag_t [Lanes-1:0]                row_tag;
  logic [Lanes-1:0][IndexBits-1:0] row_index;
  logic                            reader_idle, rows_busy;

  residue_reader #(
    .AxiDataBits(AxiDataBits), .Ports(Ports), .Targets(Lanes), .TagBits($bits(tag_t)),
    .IndexBits(IndexBits)
  ) i_reader (
    .clk, .rst_n, .flush_i(soft_reset_i), .clear_i, .error_clear_i, .mem_base_i, .mem_limit_i,
    .idle_o(reader_idle), .error_window_o(read_window_error_o), .error_axi_o(read_axi_error_o),
    .s_req_valid(req_valid), .s_req_ready(req_ready), .s_req_addr(req_addr),
    .s_req_rows(req_rows), .s_req_tag(req_tag), .s_req_targets(req_targets),
    .m_valid(row_valid), .m_ready(row_ready), .m_data(row_data), .m_tag(row_tag),
    .m_index(row_index), .m_last(row_last), .m_error(row_error),
    .m_axi_arid, .m_axi_araddr, .m_axi_arlen, .m_axi_arsize, .m_axi_arburst, .m_axi_arcache,
    .m_axi_arprot, .m_axi_arvalid, .m_axi_arready, .m_axi_rid, .m_axi_rdata, .m_axi_rresp,
    .m_axi_rlast, .m_axi_rvalid, .m_axi_rready
  );

  // ---- The command processor's reads ---------------------------------------------------------------
  residue_fifo #(.WidthBits(64 + 16 + 3 + RowBits), .DepthEntries(2)) i_command_reads (
    .clk, .rst_n(core_rst_n), .clear_i(1'b0),
    .s_valid(s_read_valid), .s_ready(s_read_ready),
    .s_data({s_read_addr, s_read_rows, s_read_store, s_read_row}),
    .m_valid(req_valid[0]), .m_ready(req_ready[0]),
    .m_data({req_addr[0], req_rows[0], req_tag[0].store, req_tag[0].row})
  );
  assign req_tag[0].what = 3'd0;
  assign req_targets[0]  = (req_tag[0].store == 3'd6) ? Lanes'(1) : '1;

  wire logic first_taken = row_valid[0] && row_ready[0];
  assign answer_valid_o = first_taken && (row_tag[0].store == 3'd6);
  assign answer_last_o  = row_last[0];
  assign answer_data_o  = row_data[0];
  assign modulus_even_o = first_taken && (row_tag[0].store == 3'd5) && (row_index[0] == '0) &&
                          !row_data[0][0];

  // ---- Table rows ----------------------------------------------------------------------------------
  logic [Lanes-1:0] loader_busy, row_want;
  logic             table_row_taken, table_row_last;

  residue_table_rows #(.Lanes(Lanes), .RowBits(RowBits)) i_table_rows (
    .clk, .rst_n(core_rst_n), .abort_i, .job_i, .busy_o(rows_busy),
    .lane_busy_i(loader_busy), .want_i(row_want), .taken_o(table_row_taken),
    .m_req_valid(req_valid[1]), .m_req_ready(req_ready[1]), .m_req_addr(req_addr[1]),
    .m_req_rows(req_rows[1]), .m_req_row(req_tag[1].row), .m_req_last(table_row_last),
    .m_req_targets(req_targets[1])
  );
  assign req_tag[1].store = 3'd1;
  assign req_tag[1].what  = table_row_last ? 3'd3 : 3'd0;

  assign read_idle_o = reader_idle && !rows_busy && !req_valid[0];

  // ---- Lanes ---------------------------------------------------------------------------------------
  logic [Lanes-1:0]        lane_write_valid, lane_data_valid, lane_data_last;
  logic [Lanes-1:0][63:0]  lane_write_addr;
  logic [Lanes-1:0][15:0]  lane_write_rows;
  logic [Lanes-1:0][127:0] lane_data;
  logic [Lanes-1:0]        write_valid, write_ready, data_valid, data_ready, data_last;
  logic [Lanes-1:0][63:0]  write_addr;
  logic [Lanes-1:0][15:0]  write_rows;
  logic [Lanes-1:0][127:0] data;

  for (genvar i = 0; i < Lanes; i++) begin : g_lane
    residue_lane #(
      .WordBits(WordBits), .Karatsuba(Karatsuba), .Elements(Elements), .MaxWords(MaxWords),
      .Contexts(Contexts), .TableEntries(TableEntries), .MaxExponentBits(MaxExponentBits),
      .EmitResults(EmitResults)
    ) i_lane (
      .clk, .rst_n(core_rst_n), .start_i, .abort_i, .flush_i, .clear_i, .job_i,
      .share_valid_i(share_valid_i[i]), .share_i, .n0inv_i, .state_o(state_o[i]),
      .count_o(count_o[i]),
      .row_want_o(row_want[i]), .row_taken_i(table_row_taken),
      .m_req_valid(req_valid[i+2]), .m_req_ready(req_ready[i+2]), .m_req_addr(req_addr[i+2]),
      .m_req_rows(req_rows[i+2]), .m_req_store(req_tag[i+2].store),
      .m_req_row(req_tag[i+2].row), .m_req_event(req_tag[i+2].what),
      .s_row_valid(row_valid[i]), .s_row_ready(row_ready[i]), .s_row_data(row_data[i]),
      .s_row_last(row_last[i]), .s_row_error(row_error[i]), .s_row_store(row_tag[i].store),
      .s_row_row(row_tag[i].row + RowBits'(row_index[i])), .s_row_event(row_tag[i].what),
      .m_write_valid(lane_write_valid[i]),
      .m_write_ready(write_ready[i] && !(i == 0 && s_write_valid)),
      .m_write_addr(lane_write_addr[i]), .m_write_rows(lane_write_rows[i]),
      .m_data_valid(lane_data_valid[i]),
      .m_data_ready(data_ready[i] && !(i == 0 && s_data_valid)),
      .m_data(lane_data[i]), .m_data_last(lane_data_last[i])
    );
    assign req_targets[i+2] = Lanes'(1) << i;
    assign loader_busy[i]   = state_o[i].loader_busy;
  end

  // ---- Writes: completion records in front of lane 0 -------------------------------------------------
  always_comb begin
    write_valid = lane_write_valid;
    write_addr  = lane_write_addr;
    write_rows  = lane_write_rows;
    data_valid  = lane_data_valid;
    data        = lane_data;
    data_last   = lane_data_last;
    if (s_write_valid) begin
      write_valid[0] = 1'b1;
      write_addr[0]  = s_write_addr;
      write_rows[0]  = s_write_rows;
    end
    if (s_data_valid) begin
      data_valid[0] = 1'b1;
      data[0]       = s_data;
      data_last[0]  = s_data_last;
    end
  end
  assign s_write_ready = write_ready[0];
  assign s_data_ready  = data_ready[0];

  residue_writer #(.AxiDataBits(AxiDataBits), .Lanes(Lanes)) i_writer (
    .clk, .rst_n, .flush_i(soft_reset_i), .clear_i, .error_clear_i, .mem_base_i, .mem_limit_i,
    .idle_o(write_idle_o), .error_window_o(write_window_error_o),
    .error_axi_o(write_axi_error_o),
    .s_req_valid(write_valid), .s_req_ready(write_ready), .s_req_addr(write_addr),
    .s_req_rows(write_rows),
    .s_valid(data_valid), .s_ready(data_ready), .s_data(data), .s_last(data_last),
    .m_axi_awid, .m_axi_awaddr, .m_axi_awlen, .m_axi_awsize, .m_axi_awburst, .m_axi_awcache,
    .m_axi_awprot, .m_axi_awvalid, .m_axi_awready, .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast,
    .m_axi_wvalid, .m_axi_wready, .m_axi_bid, .m_axi_bresp, .m_axi_bvalid, .m_axi_bready
  );

  assign read_beat_o  = m_axi_rvalid && m_axi_rready;
  assign write_beat_o = m_axi_wvalid && m_axi_wready;

endmodule

`default_nettype wire
