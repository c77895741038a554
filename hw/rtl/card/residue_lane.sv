// One lane of the card: a loader, an engine with its ring, and a storer.
//
// It takes its share of a command, fetches what that needs, computes, and writes the results. Rows
// from memory come with the tag of their request, which says where they go.
// Requests are made only when their rows have a place, so rows drain without waiting for anything
// but the engine's own write-back.
`default_nettype none

module residue_lane
  import residue_engine_pkg::*;
#(
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
  input  wire  logic                clk,
  input  wire  logic                rst_n,
  // Command
  input  wire  logic                start_i,
  input  wire  logic                abort_i,
  input  wire  logic                flush_i,
  input  wire  logic                clear_i,
  input  wire  job_t                job_i,
  input  wire  logic                share_valid_i,
  input  wire  lane_job_t           share_i,
  input  wire  logic [WordBits-1:0] n0inv_i,
  output       lane_state_t         state_o,
  output       lane_count_t         count_o,
  // Table rows, fetched for the whole cluster
  output       logic                row_want_o,
  input  wire  logic                row_taken_i,
  // Reads
  output       logic                m_req_valid,
  input  wire  logic                m_req_ready,
  output       logic [63:0]         m_req_addr,
  output       logic [15:0]         m_req_rows,
  output       logic [2:0]          m_req_store,
  output       logic [RowBits-1:0]  m_req_row,
  output       logic [2:0]          m_req_event,
  input  wire  logic                s_row_valid,
  output       logic                s_row_ready,
  input  wire  logic [127:0]        s_row_data,
  input  wire  logic                s_row_last,   // of its request
  input  wire  logic                s_row_error,  // not data
  input  wire  logic [2:0]          s_row_store,  // 0 accumulators, 1 tables, 2 exponents, 3 M, 4 index,
                                                  // 5 N, 6 of no use here, 7 to be checked
  input  wire  logic [RowBits-1:0]  s_row_row,
  input  wire  logic [2:0]          s_row_event,  // 1 initial, 2 exponent, 3 table row, 4 operand,
                                                  // 5 header, 6 N
  // Writes
  output       logic                m_write_valid,
  input  wire  logic                m_write_ready,
  output       logic [63:0]         m_write_addr,
  output       logic [15:0]         m_write_rows,
  output       logic                m_data_valid,
  input  wire  logic                m_data_ready,
  output       logic [127:0]        m_data,
  output       logic                m_data_last
);

  localparam int unsigned NRowBits = $clog2(MaxWords / 2);

  lane_job_t share_q;
  always_ff @(posedge clk) begin
    if (share_valid_i) share_q <= share_i;
  end
  wire logic start = start_i && (share_q.count != '0);

  job_t engine_job;
  always_comb begin
    engine_job       = job_i;
    engine_job.count = share_q.count;
  end

  logic retire, retire_round, retire_group;
  wire logic row_taken = s_row_valid && s_row_ready;

  residue_loader #(.RowBits(RowBits), .MaxGroup(Contexts)) i_loader (
    .clk, .rst_n, .start_i(start), .abort_i, .job_i, .share_i(share_q),
    .busy_o(state_o.loader_busy),
    .retire_i(retire), .retire_round_i(retire_round), .retire_group_i(retire_group),
    .row_want_o, .row_taken_i,
    .s_index_valid(row_taken && (s_row_store == 3'd4)), .s_index_last(s_row_last),
    .s_index_data(s_row_data),
    .m_req_valid, .m_req_ready, .m_req_addr, .m_req_rows, .m_req_store, .m_req_row, .m_req_event
  );

  logic engine_ready;
  wire logic to_engine = (s_row_store < 3'd4);
  assign s_row_ready = !to_engine || engine_ready;
  wire logic arrived = row_taken && s_row_last && !s_row_error;

  // The modulus of an element
  wire logic checked = row_taken && (s_row_store == 3'd7) && !s_row_error;
  wire logic bad_header = checked && (s_row_event == 3'd5) && (s_row_data[63:0] != 64'(job_i.k));
  wire logic even_n     = checked && (s_row_event == 3'd6) && !s_row_data[0];
  assign state_o.bad_modulus  = bad_header;
  assign state_o.even_modulus = even_n;

  logic result_valid, result_ready, result_taken;
  logic [2*WordBits-1:0] result_data;

  residue_engine #(
    .WordBits(WordBits), .Karatsuba(Karatsuba), .Elements(Elements), .MaxWords(MaxWords),
    .Contexts(Contexts), .TableEntries(TableEntries), .MaxExponentBits(MaxExponentBits),
    .EmitResults(EmitResults)
  ) i_engine (
    .clk, .rst_n, .start_i(start), .abort_i, .clear_i,
    .job_i(engine_job), .busy_o(state_o.engine_busy),
    .init_arrived_i(arrived && s_row_event == 3'd1),
    .exponent_arrived_i(arrived && s_row_event == 3'd2),
    .row_arrived_i(arrived && s_row_event == 3'd3),
    .operand_arrived_i(arrived && s_row_event == 3'd4),
    .retire_o(retire), .retire_round_o(retire_round), .retire_group_o(retire_group),
    .s_load_valid(s_row_valid && to_engine && !s_row_error), .s_load_ready(engine_ready),
    .s_load_store(s_row_store[1:0]), .s_load_row(s_row_row), .s_load_data(s_row_data),
    .m_result_valid(result_valid), .m_result_ready(result_ready), .m_result_data(result_data),
    .result_taken_i(result_taken), .store_error_o(state_o.store_error),
    .slot_busy_o(count_o.slot_busy), .product_o(count_o.product), .stall_o(count_o.stall)
  );

  residue_storer #(
    .WordBits(WordBits), .Karatsuba(Karatsuba), .MaxWords(MaxWords)
  ) i_storer (
    .clk, .rst_n, .start_i(start), .abort_i, .flush_i, .clear_i, .job_i, .share_i(share_q),
    .busy_o(state_o.storer_busy), .waiting_o(state_o.storer_waiting),
    .mismatch_o(state_o.mismatch),
    .n0inv_i, .n_wen_i(row_taken && (s_row_store == 3'd5)), .n_wrow_i(NRowBits'(s_row_row)),
    .n_wdata_i({s_row_data[64 +: WordBits], s_row_data[0 +: WordBits]}),
    .s_result_valid(result_valid), .s_result_ready(result_ready), .s_result_data(result_data),
    .result_taken_o(result_taken),
    .m_req_valid(m_write_valid), .m_req_ready(m_write_ready), .m_req_addr(m_write_addr),
    .m_req_rows(m_write_rows), .m_data_valid, .m_data_ready, .m_data, .m_data_last
  );

endmodule

`default_nettype wire
