// Functional bins of residue_arbiter: who competes.
`default_nettype none

module residue_arbiter_bins #(
  parameter int unsigned Ports    = 2,
  parameter bit          Priority = 1'b0
) (
  input wire logic             clk,
  input wire logic [Ports-1:0] asks_i,
  input wire logic [Ports-1:0] taken_i,
  input wire logic             waits_i,  // what was chosen
  input wire logic             clear_i
);

  wire logic several = (asks_i & (asks_i - 1'b1)) != '0;
  c_alone         : cover property (@(posedge clk) asks_i != '0 && !several);
  c_several       : cover property (@(posedge clk) several);
  c_all           : cover property (@(posedge clk) Ports > 1 && asks_i == '1);
  c_first_port    : cover property (@(posedge clk) several && asks_i[0] && taken_i[0]);
  c_other_port    : cover property (@(posedge clk) several && taken_i != '0 && !taken_i[0]);
  c_overtakes     : cover property (@(posedge clk) Priority && several && taken_i[0]);
  c_back_pressure : cover property (@(posedge clk) waits_i);
  c_cleared       : cover property (@(posedge clk) clear_i && asks_i != '0);

endmodule

bind residue_arbiter residue_arbiter_bins #(.Ports(Ports), .Priority(Priority)) i_bins (
  .clk, .asks_i(s_valid), .taken_i(s_valid & s_ready), .waits_i(m_valid && !m_ready), .clear_i
);

`default_nettype wire
