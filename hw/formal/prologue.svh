  // Proofs begin in any state of the registers, with a reset in the first cycle; resets may follow.
  logic f_run_q = 1'b0;
  always_ff @(posedge clk) f_run_q <= 1'b1;
  always_comb if (!f_run_q) assume (!rst_n);
`ifdef RESET_ONCE
  always_comb if (f_run_q) assume (rst_n);
`endif
