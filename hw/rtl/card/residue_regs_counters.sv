// The card's 64-bit counters behind a 32-bit bus.
//
// Register 2*i is the lower half of counter i; reading it latches the upper half, which register
// 2*i + 1 then returns, so a pair read LO first is coherent. Answers one cycle after the request;
// writes are acknowledged and ignored. Kept out of the generated register block, whose read path
// would hold sixteen words more to evaluate in every simulated cycle.
`default_nettype none

module residue_regs_counters (
  input  wire  logic        clk,
  input  wire  logic        rst_n,
  input  wire  logic        clear_i,
  // How many to count in this cycle
  input  wire  logic        inc_cycles_i,
  input  wire  logic [7:0]  inc_busy_i,
  input  wire  logic [7:0]  inc_products_i,
  input  wire  logic [15:0] inc_read_bytes_i,
  input  wire  logic [15:0] inc_write_bytes_i,
  input  wire  logic [7:0]  inc_stalls_i,
  input  wire  logic        inc_commands_i,
  input  wire  logic        inc_errors_i,
  // Bus
  input  wire  logic        req_i,
  input  wire  logic        req_is_write_i,
  input  wire  logic [3:0]  req_register_i,
  output       logic        read_ack_o,
  output       logic        write_ack_o,
  output       logic [31:0] read_data_o
);

  localparam int unsigned Counters = 8;

  logic [63:0] count_q [Counters];
  logic [31:0] upper_q;

  wire logic [63:0]               selected  = count_q[req_register_i[3:1]];
  // In the order of the register map, first counter lowest.
  wire logic [Counters-1:0][15:0] increment = {
    16'(inc_errors_i), 16'(inc_commands_i), 16'(inc_stalls_i), inc_write_bytes_i,
    inc_read_bytes_i, 16'(inc_products_i), 16'(inc_busy_i), 16'(inc_cycles_i)
  };

  always_ff @(posedge clk) begin
    for (int unsigned i = 0; i < Counters; i++) begin
      count_q[i] <= (!rst_n || clear_i) ? '0 : count_q[i] + 64'(increment[i]);
    end
    if (req_i && !req_is_write_i) begin
      read_data_o <= req_register_i[0] ? upper_q : selected[31:0];
      if (!req_register_i[0]) upper_q <= selected[63:32];
    end
    read_ack_o  <= rst_n && req_i && !req_is_write_i;
    write_ack_o <= rst_n && req_i && req_is_write_i;
  end

endmodule

`default_nettype wire
