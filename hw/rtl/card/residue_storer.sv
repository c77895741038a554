// Takes results from the engine in issue order and writes them to memory.
//
// Results that leave Montgomery form pass residue_canonical on the way; the self-test's are compared
// with 1 instead of written. After an abort results are dropped, a residue begun is completed, and
// `flush_i` ends the command. `clear_i`, while idle, zeroes the modulus and what results passed by.
`default_nettype none

module residue_storer
  import residue_engine_pkg::*;
  import residue_abi_pkg::*;
#(
  parameter int unsigned WordBits  = 51,
  parameter bit          Karatsuba = 1'b0,  // two digits a ring word
  parameter int unsigned MaxWords  = 82,
  localparam int unsigned NRowBits = $clog2(MaxWords / 2)
) (
  input  wire  logic                  clk,
  input  wire  logic                  rst_n,
  input  wire  logic                  start_i,
  input  wire  logic                  abort_i,
  input  wire  logic                  flush_i,       // nothing more will come
  input  wire  logic                  clear_i,       // pulse
  input  wire  job_t                  job_i,
  input  wire  lane_job_t             share_i,
  output       logic                  busy_o,
  output       logic                  waiting_o,     // for a result
  output       logic                  mismatch_o,    // self-test: a result was not 1
  // The modulus N and -N^-1 mod 2^W
  input  wire  logic [WordBits-1:0]   n0inv_i,
  input  wire  logic                  n_wen_i,
  input  wire  logic [NRowBits-1:0]   n_wrow_i,
  input  wire  logic [2*WordBits-1:0] n_wdata_i,
  // Results of the engine, `rows` rows each
  input  wire  logic                  s_result_valid,
  output       logic                  s_result_ready,
  input  wire  logic [2*WordBits-1:0] s_result_data,
  output       logic                  result_taken_o,
  // Writes
  output       logic                  m_req_valid,
  input  wire  logic                  m_req_ready,
  output       logic [63:0]           m_req_addr,
  output       logic [15:0]           m_req_rows,
  output       logic                  m_data_valid,
  input  wire  logic                  m_data_ready,
  output       logic [127:0]          m_data,
  output       logic                  m_data_last
);

  localparam int unsigned WordIndexBits = $clog2(MaxWords);

  typedef enum logic [1:0] { StIdle, StResult, StRequest, StData } state_e;
  state_e state_q, state_d;

  wire logic is_table = job_i.opcode == OpTable;
  wire logic is_self  = job_i.opcode == OpSelftest;
  wire logic leaves   = (job_i.opcode == OpFromMont) || is_self;

  // ---- Exit from Montgomery form -------------------------------------------------------------------
  logic [WordBits-1:0] n_even_q [MaxWords/2];
  logic [WordBits-1:0] n_odd_q  [MaxWords/2];
  logic [WordIndexBits-1:0] n_addr;
  logic [WordBits-1:0] n_data_q;

  // Clearing: one row a cycle
  logic                clearing_q;
  logic [NRowBits-1:0] clear_row_q;
  wire logic                  n_wen   = n_wen_i || clearing_q;
  wire logic [NRowBits-1:0]   n_wrow  = clearing_q ? clear_row_q : n_wrow_i;
  wire logic [2*WordBits-1:0] n_wdata = clearing_q ? '0 : n_wdata_i;

  always_ff @(posedge clk) begin
    if (!rst_n)                                             clearing_q <= 1'b0;
    else if (clear_i)                                       clearing_q <= 1'b1;
    else if (clear_row_q == NRowBits'(MaxWords / 2 - 1))    clearing_q <= 1'b0;
    clear_row_q <= clearing_q ? clear_row_q + NRowBits'(1) : '0;
    if (n_wen) begin
      n_even_q[n_wrow] <= n_wdata[0 +: WordBits];
      n_odd_q[n_wrow]  <= n_wdata[WordBits +: WordBits];
    end
    n_data_q <= n_addr[0] ? n_odd_q[n_addr[WordIndexBits-1:1]] : n_even_q[n_addr[WordIndexBits-1:1]];
  end

  // Pairs to words
  logic in_high_q;
  logic [7:0] in_row_q;
  logic c_in_ready, c_out_valid;
  logic [WordBits-1:0] c_out_data;
  wire logic c_in_valid = leaves && s_result_valid;
  wire logic c_in_taken = c_in_valid && c_in_ready;
  wire logic c_out_ready;

  logic c_clearing;
  residue_canonical #(
    .WordBits(WordBits), .MaxWords(MaxWords), .Steps(Karatsuba ? 2 : 1)
  ) i_canonical (
    .clk, .rst_n, .clear_i, .clearing_o(c_clearing), .n0inv_i,
    .s_valid(c_in_valid), .s_ready(c_in_ready),
    .s_data(in_high_q ? s_result_data[WordBits +: WordBits] : s_result_data[0 +: WordBits]),
    .s_last(in_high_q && last_in_row),
    .n_addr_o(n_addr), .n_data_i(n_data_q),
    .m_valid(c_out_valid), .m_ready(c_out_ready), .m_data(c_out_data), .m_last()
  );

  // Words to pairs
  logic out_high_q, pair_valid_q;
  logic [WordBits-1:0] out_low_q;
  logic [2*WordBits-1:0] pair_q;
  wire logic pair_taken;
  assign c_out_ready = !pair_valid_q || !out_high_q;
  wire logic c_out_taken = c_out_valid && c_out_ready;

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      in_high_q    <= 1'b0;
      out_high_q   <= 1'b0;
      pair_valid_q <= 1'b0;
    end else begin
      if (c_in_taken) in_high_q <= !in_high_q;
      if (c_out_taken) out_high_q <= !out_high_q;
      if (c_out_taken && out_high_q) pair_valid_q <= 1'b1;
      else if (pair_taken)           pair_valid_q <= 1'b0;
    end
    if (c_out_taken && !out_high_q) out_low_q <= c_out_data;
    if (c_out_taken && out_high_q) pair_q <= {c_out_data, out_low_q};
    if (clearing_q) begin
      out_low_q <= '0;
      pair_q    <= '0;
    end
  end

  // ---- Rows from here on: straight from the engine, or canonical ------------------------------------
  wire logic row_valid = leaves ? pair_valid_q : s_result_valid;
  wire logic [2*WordBits-1:0] row_data = leaves ? pair_q : s_result_data;
  wire logic row_ready;
  wire logic row_taken = row_valid && row_ready;
  assign pair_taken = leaves && row_taken;
  assign s_result_ready = leaves ? (c_in_ready && in_high_q) : row_ready;

  // A result has left the queue when its last row was taken; told a cycle later.
  wire logic in_row_taken = s_result_valid && s_result_ready;
  wire logic last_in_row = (in_row_q + 8'd1 == job_i.rows);

  always_ff @(posedge clk) begin
    if (!rst_n)            in_row_q <= '0;
    else if (in_row_taken) in_row_q <= last_in_row ? '0 : in_row_q + 8'd1;
    result_taken_o <= rst_n && in_row_taken && last_in_row;
  end

  // ---- Addresses: element by element; TABLE: entry by entry of every element ------------------------
  // An element's entries lie one after the other, so what follows a group's last entry is the next
  // group's first. A residue has two rows at least: what depends on its place is registered.
  logic [31:0] left_q;
  logic [8:0]  n_q, element_q;
  logic [8:0]  round_q;
  logic [63:0] addr_q, round_addr_q;
  logic [7:0]  rows_left_q;     // with this one
  logic        first_row_q;
  logic        drop_q;

  wire logic [3:0]  window = is_table ? (4'd1 << job_i.window_log2) : 4'd0;
  wire logic [8:0]  rounds = 9'd1 << window;
  logic [23:0] element_step_q;  // in units of 16 bytes
  logic        last_element_q, last_round_q;
  wire logic [8:0]  n_next = (left_q < 32'(job_i.cap)) ? left_q[8:0] : job_i.cap;
  wire logic [63:0] next_addr =
      ((last_element_q && !last_round_q) ? round_addr_q : addr_q) +
      {36'd0, last_element_q ? 24'(job_i.stride_dst) : element_step_q, 4'd0};
  wire logic last_row = (rows_left_q == 8'd1);
  wire logic residue_end = row_taken && last_row;
  wire logic writes = !is_self && !drop_q;

  assign m_req_valid  = (state_q == StRequest);
  assign m_req_addr   = addr_q;
  assign m_req_rows   = 16'(job_i.rows);
  assign m_data_valid = (state_q == StData) && writes && row_valid;
  assign m_data       = {{(64 - WordBits){1'b0}}, row_data[WordBits +: WordBits],
                         {(64 - WordBits){1'b0}}, row_data[0 +: WordBits]};
  assign m_data_last  = last_row;
  assign row_ready    = (state_q == StData) && (!writes || m_data_ready);
  assign busy_o       = (state_q != StIdle) || clearing_q || c_clearing;
  assign waiting_o    = (state_q == StResult) && !row_valid;

  always_comb begin
    state_d = state_q;
    unique case (state_q)
      StIdle: if (start_i) state_d = StResult;
      StResult:
        if (left_q == '0 || flush_i) state_d = StIdle;
        else if (row_valid)          state_d = (is_self || abort_i) ? StData : StRequest;
      StRequest: if (m_req_ready) state_d = StData;
      StData:    if (residue_end) state_d = StResult;
      default:   state_d = StIdle;
    endcase
  end

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q    <= StIdle;
      mismatch_o <= 1'b0;
    end else begin
      state_q <= state_d;
      if (start_i) mismatch_o <= 1'b0;
      else if (is_self && row_taken && row_data != {{(2 * WordBits - 1){1'b0}}, first_row_q})
        mismatch_o <= 1'b1;
    end

    if (state_q == StIdle) begin
      left_q       <= share_i.count;
      element_q    <= '0;
      round_q      <= '0;
      addr_q       <= share_i.dst;
      round_addr_q <= share_i.dst;
    end else if (residue_end) begin
      element_q <= last_element_q ? '0 : element_q + 9'd1;
      addr_q    <= next_addr;
      if (last_element_q) begin
        round_addr_q <= next_addr;
        round_q      <= last_round_q ? '0 : round_q + 9'd1;
        if (last_round_q) left_q <= left_q - 32'(n_q);
      end
    end
    element_step_q <= 24'(job_i.stride_dst) << window;
    last_element_q <= (element_q + 9'd1 == n_q);
    last_round_q   <= (round_q + 9'd1 == rounds);
    if (state_q == StResult) begin
      if (element_q == '0 && round_q == '0) n_q <= n_next;
      rows_left_q <= job_i.rows;
      first_row_q <= 1'b1;
      drop_q      <= abort_i;
    end else if (row_taken) begin
      rows_left_q <= rows_left_q - 8'd1;
      first_row_q <= 1'b0;
    end
  end

endmodule

`default_nettype wire
