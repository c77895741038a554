// Divides the elements of a command among the lanes.
//
// Lane r of Rings gets elements first .. first + n - 1 with first = r*q + min(r, rem) and
// n = q + (r < rem), where q = count / Rings and rem = count mod Rings; with each_i all get `count`
// elements, the same ones. Its addresses are those of its first element, but with each_i, where they
// mean nothing. Shares leave one by one, lane 0 first.
// Latency: 32 cycles for the division (none if Rings = 1), 1 for the first share, 9 for each one
// after it; equal for all operands. Cost: four DSP slices. Not for: counts that are secret.
`default_nettype none

module residue_split
  import residue_engine_pkg::*;
#(
  parameter int unsigned Rings = 4,
  localparam int unsigned RingBits = (Rings > 1) ? $clog2(Rings) : 1
) (
  input  wire  logic                clk,
  input  wire  logic                rst_n,
  input  wire  logic                start_i,     // the other inputs stay until busy_o falls
  input  wire  logic [31:0]         count_i,
  input  wire  logic                each_i,
  // Of element 0: src_a, src_b, exponents, dst, lowest first; and strides in units of 16 bytes
  input  wire  logic [3:0][63:0]    bases_i,
  input  wire  logic [3:0][15:0]    strides_i,
  input  wire  logic [3:0]          dst_log2_i,  // results an element, log2: 0 .. 8
  output       logic                busy_o,
  // Shares
  output       logic                m_valid,
  output       logic [RingBits-1:0] m_ring,
  output       lane_job_t           m_share
);

  localparam int unsigned Fields   = 4;
  localparam int unsigned RemBits  = RingBits + 1;
  localparam int unsigned StepBits = 16 + 8;
  // From a step through the products with the count's halves and their sum to its address. The
  // Ranks + Fields + 1 cycles of an advance turn the fields round to their places.
  localparam int unsigned Ranks    = 3;

  typedef enum logic [1:0] {StIdle, StDivide, StShare, StAdvance} state_e;
  state_e state_q;

  logic [4:0]                       turn_q;      // bit of the division, field that enters
  logic [31:0]                      quotient_q;  // the dividend leaves it as the quotient enters
  logic [RemBits-1:0]               rem_q;
  logic [RingBits-1:0]              ring_q;
  logic [31:0]                      first_q, count_q;
  // The field in turn is the lowest
  logic [Fields-1:0][63:0]          addr_q;
  logic [Fields-1:0][StepBits-1:0]  step_q;      // of an element, in units of 16 bytes
  logic [1:0][16+StepBits-1:0]      raw_q, product_q;
  logic [32+StepBits-1:0]           jump_q;

  wire logic last_ring = (ring_q == RingBits'(Rings - 1));
  wire logic extra = !each_i && (RemBits'(ring_q) < rem_q);

  // Long division: one bit of the dividend a cycle.
  wire logic [RemBits:0] partial = {rem_q, quotient_q[31]};
  wire logic             fits    = (partial >= (RemBits + 1)'(Rings));

  assign busy_o  = (state_q != StIdle);
  assign m_valid = (state_q == StShare);
  assign m_ring  = ring_q;
  assign m_share = '{
    first: first_q, count: quotient_q + 32'(extra),
    src_a: addr_q[0], src_b: addr_q[1], exponents: addr_q[2], dst: addr_q[3]
  };

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q <= StIdle;
    end else begin
      unique case (state_q)
        StIdle:    if (start_i) state_q <= (Rings == 1 || each_i) ? StShare : StDivide;
        StDivide:  if (turn_q == 5'd31) state_q <= StShare;
        StShare:   state_q <= last_ring ? StIdle : StAdvance;
        StAdvance: if (turn_q == 5'(Ranks + Fields)) state_q <= StShare;
        default:   state_q <= StIdle;
      endcase
    end

    unique case (state_q)
      StIdle: begin
        turn_q     <= '0;
        quotient_q <= count_i;
        rem_q      <= '0;
        ring_q     <= '0;
        first_q    <= '0;
        addr_q     <= bases_i;
        for (int unsigned i = 0; i < Fields; i++) step_q[i] <= StepBits'(strides_i[i]);
        step_q[Fields-1] <= StepBits'(strides_i[Fields-1]) << dst_log2_i;
      end
      StDivide: begin
        turn_q     <= turn_q + 5'd1;  // wraps to 0
        quotient_q <= {quotient_q[30:0], fits};
        rem_q      <= RemBits'(fits ? partial - (RemBits + 1)'(Rings) : partial);
      end
      StShare: begin
        turn_q  <= '0;
        count_q <= m_share.count;
      end
      StAdvance: begin
        turn_q <= turn_q + 5'd1;
        step_q <= {step_q[0], step_q[Fields-1:1]};
        if (turn_q >= 5'(Ranks) && turn_q < 5'(Ranks + Fields))
          addr_q <= {addr_q[0] + {4'd0, jump_q, 4'd0}, addr_q[Fields-1:1]};
        if (turn_q == 5'(Ranks + Fields)) begin
          ring_q <= ring_q + RingBits'(1);
          if (!each_i) first_q <= first_q + count_q;
        end
      end
      default: ;
    endcase

    for (int unsigned i = 0; i < 2; i++) raw_q[i] <= count_q[16*i+:16] * step_q[0];
    product_q <= raw_q;
    jump_q    <= {product_q[1], 16'd0} + (32 + StepBits)'(product_q[0]);
  end

endmodule

`default_nettype wire
