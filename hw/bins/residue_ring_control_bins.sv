// Functional bins of residue_ring_control: what starts when.
`default_nettype none

module residue_ring_control_bins (
  input wire logic       clk,
  input wire logic       rst_n,
  input wire logic       start_i,
  input wire logic       again_i,      // a pass that came back starts
  input wire logic       request_i,
  input wire logic       returns_i,
  input wire logic [7:0] passes_i
);

  c_one_pass       : cover property (@(posedge clk) rst_n && start_i && passes_i == 8'd1);
  c_two_passes     : cover property (@(posedge clk) rst_n && start_i && passes_i == 8'd2);
  c_more_passes    : cover property (@(posedge clk) rst_n && start_i && passes_i > 8'd2);
  c_pass_goes_first : cover property (@(posedge clk) rst_n && start_i && again_i && request_i);
  c_back_to_back   : cover property (@(posedge clk) rst_n && start_i && returns_i);

endmodule

bind residue_ring_control residue_ring_control_bins i_bins (
  .clk, .rst_n, .start_i(start), .again_i(again_valid_q), .request_i(s_req_valid),
  .returns_i(returns), .passes_i
);

`default_nettype wire
