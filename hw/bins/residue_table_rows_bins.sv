// Functional bins of residue_table_rows: for which lanes a row is fetched, and what it waits for.
`default_nettype none

module residue_table_rows_bins #(
  parameter int unsigned Lanes = 1
) (
  input wire logic             clk,
  input wire logic             abort_i,
  input wire logic [Lanes-1:0] lane_busy_i,
  input wire logic [Lanes-1:0] want_i,
  input wire logic             valid_i,
  input wire logic             ready_i,
  input wire logic             last_i,
  input wire logic [Lanes-1:0] targets_i
);

  wire logic done = valid_i && ready_i;
  c_all_lanes        : cover property (@(posedge clk) done && Lanes > 1 && targets_i == '1);
  c_some_lanes       : cover property (@(posedge clk) done && targets_i != '1);
  c_waits_for_a_lane : cover property (@(posedge clk)
      !valid_i && want_i != '0 && (want_i | ~lane_busy_i) != '1);
  c_last             : cover property (@(posedge clk) done && last_i);
  c_back_pressure    : cover property (@(posedge clk) valid_i && !ready_i);
  c_aborted          : cover property (@(posedge clk) valid_i && !last_i && abort_i);

endmodule

bind residue_table_rows residue_table_rows_bins #(.Lanes(Lanes)) i_bins (
  .clk, .abort_i, .lane_busy_i, .want_i, .valid_i(m_req_valid), .ready_i(m_req_ready),
  .last_i(m_req_last), .targets_i(m_req_targets)
);

`default_nettype wire
