// Functional bins of residue_engine: the ways rows, results and commands wait and end.
`default_nettype none

module residue_engine_bins (
  input wire logic clk,
  input wire logic start_i,
  input wire logic abort_i,
  input wire logic clear_i,
  input wire logic busy_i,
  input wire logic load_waits_i,
  input wire logic result_waits_i,
  input wire logic round_i,        // retires
  input wire logic group_i,        // retires
  input wire logic stall_i,
  input wire logic error_i
);

  c_started        : cover property (@(posedge clk) start_i);
  c_aborted        : cover property (@(posedge clk) abort_i && busy_i);
  c_cleared        : cover property (@(posedge clk) clear_i);
  c_load_waits     : cover property (@(posedge clk) load_waits_i);
  c_result_waits   : cover property (@(posedge clk) result_waits_i);
  c_inner_round    : cover property (@(posedge clk) round_i && !group_i);
  c_group          : cover property (@(posedge clk) group_i);
  c_stall          : cover property (@(posedge clk) stall_i);
  c_error          : cover property (@(posedge clk) error_i);

endmodule

bind residue_engine residue_engine_bins i_bins (
  .clk, .start_i, .abort_i, .clear_i, .busy_i(busy_o),
  .load_waits_i(s_load_valid && !s_load_ready),
  .result_waits_i(m_result_valid && !m_result_ready), .round_i(retire_round_o),
  .group_i(retire_group_o), .stall_i(stall_o), .error_i(store_error_o)
);

`default_nettype wire
