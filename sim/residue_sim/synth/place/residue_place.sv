// One processing element between shift registers, so that it can be placed with three pins.
//
// Every input of the element comes from a flip-flop of a chain that serial_i fills, every output goes
// into a flip-flop, and those are folded into a chain that ends in serial_o: nothing is optimised
// away and every path of the element lies between two registers.
`default_nettype none

module residue_place #(
    parameter int unsigned WordBits = 36,
    localparam int unsigned W = WordBits,
    localparam int unsigned T = (W + 1) / 2 + 2,
    localparam int unsigned Pins = 1 + 3 * W + 2 * T
) (
    input  wire  clk,
    input  wire  serial_i,
    output logic serial_o
);

  logic [Pins-1:0] in_q, out_q, scan_q;
  wire [Pins-1:0] out;

  residue_pe #(.WordBits(WordBits)) u_pe (
      .clk,
      .first_i(in_q[0]), .a_i(in_q[1+:W]), .b_i(in_q[1+W+:W]), .m_i(in_q[1+2*W+:W]),
      .t_i(in_q[1+3*W+:2*T]),
      .first_o(out[0]), .a_o(out[1+:W]), .b_o(out[1+W+:W]), .m_o(out[1+2*W+:W]),
      .t_o(out[1+3*W+:2*T])
  );

  always_ff @(posedge clk) begin
    in_q   <= {in_q[Pins-2:0], serial_i};
    out_q  <= out;
    scan_q <= {scan_q[Pins-2:0], 1'b0} ^ out_q;
  end
  assign serial_o = scan_q[Pins-1];

endmodule

`default_nettype wire
