// Functional bins of residue_lane: what waits, what goes wrong, how a command ends.
`default_nettype none

module residue_lane_bins
  import residue_engine_pkg::*;
(
  input wire logic        clk,
  input wire lane_state_t state_i,
  input wire lane_count_t count_i,
  input wire logic        start_i,
  input wire logic        abort_i,
  input wire logic        flush_i,
  input wire logic        row_i,         // from memory
  input wire logic        row_waits_i,
  input wire logic        row_error_i,
  input wire logic        table_wait_i,  // for a table row
  input wire logic        request_waits_i,
  input wire logic        write_waits_i,
  input wire logic        data_waits_i
);

  logic start_q;
  always_ff @(posedge clk) start_q <= start_i;

  c_runs           : cover property (@(posedge clk) start_q && state_i.storer_busy);
  c_rests          : cover property (@(posedge clk) start_q && !state_i.storer_busy);
  c_aborted        : cover property (@(posedge clk) abort_i && state_i.engine_busy);
  c_flushed        : cover property (@(posedge clk) flush_i && state_i.storer_busy);
  c_mismatch       : cover property (@(posedge clk) state_i.mismatch);
  c_store_error    : cover property (@(posedge clk) state_i.store_error);
  c_bad_modulus    : cover property (@(posedge clk) state_i.bad_modulus);
  c_even_modulus   : cover property (@(posedge clk) state_i.even_modulus);
  c_stall          : cover property (@(posedge clk) count_i.stall);
  c_row_error      : cover property (@(posedge clk) row_i && row_error_i);
  c_row_waits      : cover property (@(posedge clk) row_waits_i);
  c_table_row      : cover property (@(posedge clk) table_wait_i);
  c_request_waits  : cover property (@(posedge clk) request_waits_i);
  c_write_waits    : cover property (@(posedge clk) write_waits_i);
  c_data_waits     : cover property (@(posedge clk) data_waits_i);

endmodule

bind residue_lane residue_lane_bins i_bins (
  .clk, .state_i(state_o), .count_i(count_o), .start_i, .abort_i, .flush_i,
  .row_i(s_row_valid && s_row_ready), .row_waits_i(s_row_valid && !s_row_ready),
  .row_error_i(s_row_error), .table_wait_i(row_want_o && !row_taken_i),
  .request_waits_i(m_req_valid && !m_req_ready), .write_waits_i(m_write_valid && !m_write_ready),
  .data_waits_i(m_data_valid && !m_data_ready)
);

`default_nettype wire
